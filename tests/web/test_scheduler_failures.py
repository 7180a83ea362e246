"""Answers that fail, beside others that do not."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import asyncio
import contextlib
import math
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from blip2_chat.generation import loop as loop_module
from blip2_chat.generation.rows import Event, Task
from blip2_chat.model import Model
from blip2_chat.web.scheduler import Scheduler
from tests.support.scheduling import alone, assert_same, ends, events_of, held_until, seen, task
from tests.support.waiting import wait_until


def test_a_failing_step_fails_its_answers_and_nothing_after(model: Model, scheduler: Scheduler) -> None:
    step = model.engine.step

    def broken(state: Any, tokens: Any) -> Any:
        raise MemoryError("no room")

    async def ask(number: int) -> list[Event]:
        return await events_of(scheduler.submit(seen(model, number), task(model, "?")))

    model.engine.step = broken  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        asyncio.run(ask(1))
    model.engine.step = step  # type: ignore[method-assign]
    assert ends(asyncio.run(ask(1)))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_answer_that_fails_spoils_no_other(model: Model, place: int) -> None:
    """Logits that are no numbers are nothing to draw from; the state behind them is not gone on from, either."""
    scheduler = Scheduler(model, slots=4)
    step, all_here = model.engine.step, threading.Event()

    def overflowing(state: Any, tokens: Any) -> Any:
        all_here.wait(60)
        logits = step(state, tokens).copy()
        if len(tokens) == 3:
            logits[place] = np.nan
        return logits

    async def ask() -> list[Any]:
        model.engine.step = overflowing  # type: ignore[method-assign]
        drawn = {"temperature": 1.0, "seed": 1, "min_new_tokens": 5, "max_new_tokens": 5}
        tickets = [scheduler.submit(seen(model, i), task(model, "?", **drawn)) for i in range(3)]
        all_here.set()
        return await asyncio.gather(*[events_of(ticket) for ticket in tickets], return_exceptions=True)

    try:
        answers = asyncio.run(ask())
        assert isinstance(answers.pop(place), ValueError)
        assert all(len(ends(events)[0].result.token_ids) == 5 for events in answers)
        assert wait_until(lambda: not scheduler.busy_rows)
        assert model.states.take(seen(model, place).digest, []) is None
    finally:
        all_here.set()
        model.engine.step = step  # type: ignore[method-assign]
        scheduler.close()


@pytest.mark.parametrize("blamed", [None, 1])
def test_prompts_that_cannot_be_read_together_are_read_one_by_one(model: Model, blamed: int | None) -> None:
    """Too many for the memory at once, or one that cannot be read at all."""
    tasks = [task(model, f"what is {name}?") for name in ("this", "that", "here")]
    expected = [alone(model, i, one) for i, one in enumerate(tasks)]
    model.states.clear()
    prefill, all_here, together = model.engine.prefill, threading.Event(), 0
    held_until(all_here, model)

    def failing(vectors: Any, prompts: Any, state: Any = None) -> Any:
        nonlocal together
        together = max(together, len(prompts))
        if len(prompts) > 1 or (blamed is not None and prompts[0] == tasks[blamed].prompt):
            raise MemoryError("no room")
        return prefill(vectors, prompts, state)

    model.engine.prefill = failing  # type: ignore[method-assign]

    async def ask() -> list[Any]:
        with contextlib.closing(Scheduler(model, slots=4, patience=math.inf)) as scheduler:
            tickets = [scheduler.submit(seen(model, i), one) for i, one in enumerate(tasks)]
            all_here.set()
            return await asyncio.gather(*[events_of(ticket) for ticket in tickets], return_exceptions=True)

    for place, events in enumerate(asyncio.run(ask())):
        if place == blamed:
            assert isinstance(events, MemoryError)
        else:
            assert_same(events, expected[place])
    assert together == 3


def test_rows_that_cannot_begin_spoil_no_others(
    model: Model, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = loop_module.rows_of

    def failing(one: Task, *others: Any) -> Any:
        if one.decoding.max_new_tokens == 7:
            raise OverflowError
        return made(one, *others)

    monkeypatch.setattr(loop_module, "rows_of", failing)

    async def ask() -> list[Any]:
        tickets = [scheduler.submit(seen(model, 1), task(model, "?", min_new_tokens=40, max_new_tokens=40))]
        await anext(aiter(tickets[0]))
        tickets.append(scheduler.submit(seen(model, 2), task(model, "?", max_new_tokens=7)))
        answers = [asyncio.wait_for(events_of(ticket), 60) for ticket in tickets]
        return await asyncio.gather(*answers, return_exceptions=True)

    written, failed = asyncio.run(ask())
    assert ends(written)
    assert isinstance(failed, OverflowError)


def test_a_picture_that_fails_spoils_only_its_own_answer(model: Model, scheduler: Scheduler) -> None:
    async def ask() -> list[Any]:
        good, bad = seen(model, 1), seen(model, 2)
        bad = replace(bad, pixels=bad.pixels[:, :, :5])
        tickets = [scheduler.submit(one, task(model, "?")) for one in (good, bad, good)]
        return await asyncio.gather(*[events_of(ticket) for ticket in tickets], return_exceptions=True)

    first, wrong, third = asyncio.run(ask())
    assert isinstance(wrong, ValueError)
    assert ends(first)[0].text == ends(third)[0].text
