"""`blip2-chat caption PICTURE...`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Blip2ChatError, PictureError
from .display.output import entry, open_source, shown_name, speak, speak_others, tell_advice, write
from .display.terminal import complain, say, say_json
from .options import Json, ModelOptions, Start, WritingOptions
from .where import Method, Where
from .where import check as check_where
from .where import save as save_where
from .wording import worded

if TYPE_CHECKING:
    from ..chat import Chat


def caption(
    pictures: Annotated[
        list[str], typer.Argument(metavar="PICTURE", help="A path or URL, or - for standard input.")
    ],
    model: ModelOptions,
    writing: WritingOptions,
    start: Start = None,
    where: Where = None,
    where_method: Method = None,
    as_json: Json = False,
) -> None:
    """Describe pictures.

    Each caption is printed on a line of its own, after the picture's name if there are several pictures. A picture
    that cannot be read is skipped with an error, and the exit status is 1.
    """
    check_where(where, where_method)
    if where is not None and len(pictures) > 1:
        raise typer.BadParameter("--where is for one picture")
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
        # Only once there is a picture to describe, because loading may take minutes.
        running = running or model.load()
        try:
            chat = running.chat(picture, **settings)
            tell_advice(chat)
            prefix = f"{shown_name(source)}: " if len(pictures) > 1 else ""
            _describe(chat, source, prefix, start, as_json)
            if where is not None:
                save_where(chat, where, where_method)
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
            if chat.turns:  # also a partial caption after Ctrl-C
                say_json(entry(source, chat, caption=chat.turns[-1].text))
        return
    # The answer continues `start`, which is part of the description.
    said = f"{start.strip()} " if start and start.strip() else ""
    say(prefix + said, end="")
    speak(pieces)
    speak_others(chat.turns[-1].answer, prefix + said)
