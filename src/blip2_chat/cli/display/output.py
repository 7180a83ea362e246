"""An answer on its way to the user: as it is written, or as a JSON entry."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

from .terminal import note, printable, say, say_lines, waiting

if TYPE_CHECKING:
    from ...chat import Chat
    from ...generation.answer import Answer
    from ...images import Picture, PictureLimits
    from .wrap import Wrap

# Stands for the picture on stdin.
STDIN = "-"


def open_source(source: str, limits: PictureLimits) -> Picture:
    """The picture at a path or URL, or on stdin; `PictureError`."""
    from ...images import open_picture

    return open_picture(sys.stdin.buffer if source == STDIN else source, limits=limits)


def shown_name(source: str) -> str:
    """What a picture is called in front of its caption: as it was typed, on one line, without secrets."""
    from ...images.naming import UNNAMED, one_line, url_name

    if source[:5].lower() == "data:":
        return UNNAMED
    return url_name(source) if "://" in source else one_line(source)


def write(pieces: Iterator[str], show: Callable[[str], None]) -> None:
    """Shows an answer's pieces as they come.

    Broken off by ctrl-C, the stream is closed at once, so that its partial answer is among the chat's turns.
    """
    with closing(cast("Generator[str]", pieces)), waiting("reading the picture") as stop_waiting:
        for piece in pieces:
            stop_waiting()
            show(piece)


def speak(pieces: Iterator[str], wrap: Wrap | None = None) -> None:
    """`write` on stdout, ended by a newline whatever happens. `wrap` breaks it into lines, for a terminal."""
    started = False

    def show(piece: str) -> None:
        nonlocal started
        started = True
        if wrap is None:
            say(piece, end="")
        else:
            say_lines(wrap.push(printable(piece)))

    try:
        write(pieces, show)
    except BaseException:
        if started:
            _end(wrap)
        raise
    _end(wrap)


def _end(wrap: Wrap | None) -> None:
    if wrap is not None:
        say_lines(wrap.finish())
    say("")


def speak_others(answer: Answer, prefix: str = "", wrap: Callable[[], Wrap] | None = None) -> None:
    """The further answers, one per line; with `wrap`, which makes one for each, broken into lines."""
    for other in answer.others:
        if wrap is None:
            say(prefix + other.text)
        else:
            lines = wrap()
            say_lines(lines.push(printable(prefix + other.text)))
            _end(lines)


def entry(source: str, chat: Chat, **what: str) -> dict[str, Any]:
    """The chat's last turn for JSON; `what` are the first keys after the picture's name."""
    answer, engine = chat.turns[-1].answer, chat.model.engine
    made: dict[str, Any] = {
        "picture": source,
        **what,
        "model": chat.model.name,
        "engine": engine.name,
        "precision": engine.precision,
        "score": round(answer.score, 4),
        "finish_reason": answer.finish_reason,
        "tokens": len(answer.tokens),
        "seconds": round(answer.seconds, 3),
        "first_word_seconds": round(answer.first_word_seconds, 3),
        "advice": [one.message for one in chat.advice],
    }
    if answer.others:
        made["others"] = [{"text": one.text, "score": round(one.score, 4)} for one in answer.others]
    if chat.turns[-1].dropped_turns:
        made["dropped_turns"] = chat.turns[-1].dropped_turns
    return made


def tell_advice(chat: Chat, tell: Callable[[str], None] = note) -> None:
    """What about the picture may make answers worse."""
    for one in chat.advice:
        tell(f"{chat.picture.name}: {one.message}")


def tell_dropped(chat: Chat, tell: Callable[[str], None] = note) -> None:
    """How much of the conversation the last answer did not know."""
    dropped = chat.turns[-1].dropped_turns
    if dropped:
        turns = "the oldest turn" if dropped == 1 else f"the oldest {dropped} turns"
        tell(f"({turns} no longer fit the model's context beside this question and were left out)")
