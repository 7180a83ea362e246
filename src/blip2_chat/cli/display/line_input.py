"""What a person types: lines with editing, history within the session, and completion by Tab."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.shortcuts import CompleteStyle

from .terminal import note


class Commands(Completer):
    """/commands, the paths after those that take one, and the suggested question on an empty line."""

    def __init__(self, commands: Mapping[str, bool], suggestion: str) -> None:
        """`commands`: name -> whether a path follows it."""
        self._commands = commands
        self._suggestion = suggestion
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor.lstrip()
        if not line:
            yield Completion(self._suggestion)
        if not line.startswith("/"):
            return
        name, space, argument = line[1:].partition(" ")
        if not space:
            for command, has_path in self._commands.items():
                if command.startswith(name.lower()):
                    yield Completion("/" + command + (" " if has_path else ""), -len(line))
        elif self._commands.get(name.lower()):
            argument = argument.lstrip().lstrip("'\"").replace("\\ ", " ")
            for found in self._paths.get_completions(Document(argument), complete_event):
                is_folder = found.display_text.endswith("/")
                yield Completion(found.text + "/" * is_folder, 0, display=found.display)


def typed_lines(prompt: str, completer: Completer, has_colour: bool) -> Iterator[str]:
    """What a person types. ctrl-D, and ctrl-C at an empty prompt, end it; ctrl-C elsewhere drops the line."""
    # It asks the terminal where the cursor is, which only menus need, and complains where no answer comes.
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
    session: PromptSession[str] = PromptSession(
        FormattedText([("bold fg:ansicyan" if has_colour else "", prompt)]),
        completer=completer,
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        color_depth=None if has_colour else ColorDepth.DEPTH_1_BIT,
        # The prompt is not to be among answers that go to a file.
        output=create_output(sys.stdout if sys.stdout.isatty() else sys.stderr),
    )
    while True:
        try:
            line = session.prompt()
        except EOFError:
            return
        except KeyboardInterrupt:
            if not session.default_buffer.text:
                return
            note("")
            continue
        yield line
