"""Answers of a scheduler, and those that the model gives alone."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from blip2_chat.generation.answer import Answer, Writing
from blip2_chat.generation.rows import End, Event, Piece, Task
from blip2_chat.generation.settings import Decoding
from blip2_chat.images import PreparedPicture, open_picture, prepare
from blip2_chat.model import Model
from blip2_chat.web.scheduler import Ticket
from tests.support.web_server import picture


def seen(model: Model, number: int) -> PreparedPicture:
    return prepare(open_picture(picture(number)), model.preprocess)


def task(model: Model, question: str, **settings: Any) -> Task:
    settings = {"max_new_tokens": 12, **settings}
    decoding = Decoding.of(**settings)
    text = f"Question: {question} Answer:"
    instruction = model.tokenizer.instruction(text)
    return Task(model.tokenizer.encode(text), decoding, decoding.stop, instruction=instruction)


def alone(model: Model, number: int, one: Task) -> Answer:
    vectors = model.query_vectors(open_picture(picture(number)), one.instruction)
    writing = Writing(model.engine, model.tokenizer, vectors, one)
    for _ in writing:
        pass
    return writing.answer()


def held_until(event: threading.Event, model: Model) -> None:
    """No picture is read before the event: what is submitted until then is in line together."""
    read = model.query_vectors

    def waiting(*given: Any) -> Any:
        assert event.wait(60)
        return read(*given)

    model.query_vectors = waiting  # type: ignore[method-assign]


async def events_of(ticket: Ticket) -> list[Event]:
    return [event async for event in ticket]


def ends(events: list[Event]) -> list[End]:
    return sorted((event for event in events if isinstance(event, End)), key=lambda end: end.index)


def assert_same(events: list[Event], expected: Answer) -> None:
    written = ends(events)
    for end, answer in zip(written, [expected, *expected.others], strict=True):
        assert end.result.token_ids == list(answer.tokens)
        assert end.text == answer.text
        assert end.result.finish_reason == answer.finish_reason
        np.testing.assert_allclose(end.result.logprobs, answer.logprobs, atol=2e-3)
        assert end.result.score == pytest.approx(answer.score, abs=2e-3)
        pieces = [event.text for event in events if isinstance(event, Piece) and event.index == end.index]
        assert "".join(pieces) == end.text
