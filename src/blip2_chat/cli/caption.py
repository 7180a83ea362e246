"""`blip2-chat caption PIC...`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Blip2ChatError, PictureError
from .display.output import entry, open_source, shown_name, speak, speak_others, tell_advice, write
from .display.terminal import complain, say, say_json
from .options import Json, ModelOptions, Start, WritingOptions
from .wording import worded

if TYPE_CHECKING:
    from ..chat import Chat


def caption(
    pictures: Annotated[
        list[str], typer.Argument(metavar="PIC", help="Paths or URLs; - reads one picture from stdin.")
    ],
    model: ModelOptions,
    writing: WritingOptions,
    start: Start = None,
    as_json: Json = False,
) -> None:
    """Describe pictures.

    One caption per line, the picture's name in front when there are several; with --json one JSON object per
    line. A picture that cannot be read is told and skipped; the exit status is then 1.
    """
    settings = writing.settings()
    running = None
    failed = False

    def skip(source: str, error: Blip2ChatError) -> None:
        nonlocal failed
        failed = True
        complain(worded(error))
        if as_json:
            say_json({"picture": source, "error": worded(error)})

    for source in pictures:
        try:
            picture = open_source(source, model.picture_limits())
        except PictureError as error:
            skip(source, error)
            continue
        # Not before there is a picture to describe: loading may take minutes.
        running = running or model.load()
        try:
            chat = running.chat(picture, **settings)
            tell_advice(chat)
            prefix = f"{shown_name(source)}: " if len(pictures) > 1 else ""
            _describe(chat, source, prefix, start, as_json)
        except Blip2ChatError as error:
            skip(source, error)
    if failed:
        raise typer.Exit(1)


def _describe(chat: Chat, source: str, prefix: str, start: str | None, as_json: bool) -> None:
    pieces = chat.stream_caption(start)
    if as_json:
        try:
            write(pieces, lambda piece: None)
        finally:
            if chat.turns:  # also when ctrl-C left only a part
                say_json(entry(source, chat, caption=chat.turns[-1].text))
        return
    # The answer goes on from `start`, which is part of the description.
    said = f"{start.strip()} " if start and start.strip() else ""
    say(prefix + said, end="")
    speak(pieces)
    speak_others(chat.turns[-1].answer, prefix + said)
