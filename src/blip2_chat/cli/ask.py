"""`blip2-chat ask PICTURE QUESTION...`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Blip2ChatError, PictureError
from .display.output import entry, open_source, speak, speak_others, tell_advice, tell_dropped, write
from .display.terminal import complain, say, say_json, waiting
from .options import CHOICES_HELP, Json, ModelOptions, WritingOptions, choices_of
from .where import Method, Where
from .where import check as check_where
from .where import save as save_where
from .wording import option, worded

if TYPE_CHECKING:
    from ..chat import Chat


def ask(
    picture: Annotated[
        str, typer.Argument(metavar="PICTURE", help="A path or URL, or - for standard input.")
    ],
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION", help="A question; it may refer to earlier ones.")
    ],
    *,
    choices: Annotated[str | None, typer.Option(metavar="A,B,...", help=CHOICES_HELP)] = None,
    where: Where = None,
    where_method: Method = None,
    model: ModelOptions,
    writing: WritingOptions,
    as_json: Json = False,
) -> None:
    """Answer questions about a picture.

    Several questions form one conversation. Each answer is printed on a line of its own. If a question cannot be
    answered, an error is printed, the others are still asked, and the exit status is 1.
    """
    check_where(where, where_method)
    settings = writing.settings()
    answers = choices_of(choices)
    if answers and settings:
        raise typer.BadParameter(f"--choices ranks given answers; leave out {option(next(iter(settings)))}")
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
            if answers:
                _choose(chat, picture, question, answers, as_json)
            else:
                _answer(chat, picture, question, as_json)
        except Blip2ChatError as error:
            failed = True
            complain(worded(error))
            if as_json:
                say_json({"picture": picture, "question": question, "error": worded(error)})
    if where is not None:
        save_where(chat, where, where_method)
    if failed:
        raise typer.Exit(1)


def _answer(chat: Chat, source: str, question: str, as_json: bool) -> None:
    pieces = chat.stream(question)
    if as_json:
        before = len(chat.turns)
        try:
            write(pieces, lambda piece: None)
        finally:
            if len(chat.turns) > before:  # also a partial answer after Ctrl-C
                say_json(entry(source, chat, question=question, answer=chat.turns[-1].text))
    else:
        speak(pieces)
        speak_others(chat.turns[-1].answer)
    tell_dropped(chat)


def _choose(chat: Chat, source: str, question: str, choices: tuple[str, ...], as_json: bool) -> None:
    with waiting("reading the picture"):
        ranked = chat.choose(question, choices)
    if as_json:
        told = [{"answer": answer, "probability": round(share, 6)} for answer, share in ranked]
        made = entry(source, chat, question=question, answer=ranked[0][0])
        made.pop("others", None)
        say_json({**made, "choices": told})
    else:
        say(ranked[0][0])
    tell_dropped(chat)
