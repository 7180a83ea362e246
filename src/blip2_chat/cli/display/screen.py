"""What a person at a terminal sees of a conversation, and what a pipe gets of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from .output import speak, speak_others
from .terminal import complain, note, printable

if TYPE_CHECKING:
    from ...generation.answer import Answer
    from ...images import Picture
    from .wrap import Wrap


class Screen:
    """stdout gets answers and nothing else; all that is said about them goes to stderr.

    At a terminal, lines are broken at words, notes and errors have colours, and the picture is shown. Where a
    stream is no terminal, or the lines come from a pipe, nothing is added to what is said.
    """

    def __init__(self, interactive: bool, shows_pictures: bool = True) -> None:
        self._wraps = interactive and sys.stdout.isatty()
        self._console: Any = None
        self.has_colour = interactive and wants_colour(sys.stderr)
        if interactive and sys.stderr.isatty():
            from rich.console import Console

            self._console = Console(
                stderr=True,
                highlight=False,
                markup=False,
                emoji=False,
                color_system="auto" if self.has_colour else None,
            )
        self._shows_pictures = shows_pictures and self.has_colour and self._console is not None

    def picture(self, picture: Picture) -> None:
        """Shows the picture, where that is possible and wanted."""
        if self._shows_pictures:
            from .picture_view import show_picture

            show_picture(picture.image, self._console)

    def answer(self, pieces: Iterator[str]) -> None:
        """The pieces of an answer, as they come."""
        speak(pieces, _wrap() if self._wraps else None)

    def others(self, answer: Answer) -> None:
        """The further answers, each from the beginning of a line."""
        speak_others(answer, wrap=_wrap if self._wraps else None)

    def note(self, line: str) -> None:
        """A line about the answers."""
        self._say(line, "dim")

    def complain(self, text: str) -> None:
        """One line that says what is wrong."""
        if self._console is None:
            complain(text)
        else:
            self._say(f"Error: {' '.join(text.split())}", "red")

    def _say(self, line: str, style: str) -> None:
        if self._console is None:
            note(line)
            return
        from rich.text import Text

        self._console.print(Text(printable(line), style))


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`: NO_COLOR (no-color.org) goes before all others, then FORCE_COLOR
    and CLICOLOR_FORCE, CLICOLOR=0 and TERM=dumb; else where it is a terminal."""
    environment = os.environ
    if environment.get("NO_COLOR"):
        return False
    if any(environment.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    if environment.get("CLICOLOR") == "0" or environment.get("TERM") in ("dumb", "unknown"):
        return False
    return stream.isatty()


def _wrap() -> Wrap:
    from .wrap import Wrap  # brings rich, which no --help waits for

    return Wrap(lambda: shutil.get_terminal_size().columns)
