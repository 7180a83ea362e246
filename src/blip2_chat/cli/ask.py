"""`blip2-chat ask PIC QUESTION...`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Blip2ChatError, PictureError
from .display.output import entry, open_source, speak, speak_others, tell_advice, tell_dropped, write
from .display.terminal import complain, say_json
from .options import Json, ModelOptions, WritingOptions
from .wording import worded

if TYPE_CHECKING:
    from ..chat import Chat


def ask(
    picture: Annotated[str, typer.Argument(metavar="PIC", help="A path or URL; - reads it from stdin.")],
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION", help="Each may refer to those before.")
    ],
    model: ModelOptions,
    writing: WritingOptions,
    as_json: Json = False,
) -> None:
    """Ask about a picture.

    Several questions are one conversation. One answer per line; with --json one JSON object per line. A question
    that cannot be asked is told and skipped; the exit status is then 1.
    """
    settings = writing.settings()
    try:
        opened = open_source(
            picture, model.picture_limits()
        )  # before the model, whose loading may take minutes
    except PictureError as error:
        if as_json:
            say_json({"picture": picture, "error": worded(error)})
        raise
    chat = model.load().chat(opened, **settings)
    tell_advice(chat)
    failed = False
    for question in questions:
        try:
            _answer(chat, picture, question, as_json)
        except Blip2ChatError as error:
            failed = True
            complain(worded(error))
            if as_json:
                say_json({"picture": picture, "question": question, "error": worded(error)})
    if failed:
        raise typer.Exit(1)


def _answer(chat: Chat, source: str, question: str, as_json: bool) -> None:
    pieces = chat.stream(question)
    if as_json:
        before = len(chat.turns)
        try:
            write(pieces, lambda piece: None)
        finally:
            if len(chat.turns) > before:  # also when ctrl-C left only a part
                say_json(entry(source, chat, question=question, answer=chat.turns[-1].text))
    else:
        speak(pieces)
        speak_others(chat.turns[-1].answer)
    tell_dropped(chat)
