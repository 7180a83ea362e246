"""Many answers side by side are the answers each would have had alone."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest

from blip2_chat.checkpoint.config import FAMILIES
from blip2_chat.generation.rows import Event
from blip2_chat.generation.settings import Decoding
from blip2_chat.model import Model
from blip2_chat.web.scheduler import Scheduler, Stopped, Ticket
from tests.support.scheduling import alone, assert_same, ends, events_of, held_until, seen, task
from tests.support.waiting import wait_until
from tests.support.web_server import MakeModel


@pytest.fixture(params=FAMILIES)
def models(request: pytest.FixtureRequest, make_model: MakeModel) -> tuple[Model, Model]:
    """Two of the same: one for the scheduler, one to compare with."""
    return make_model(request.param), make_model(request.param)


def test_every_answer_is_the_one_it_would_have_had_alone(models: tuple[Model, Model]) -> None:
    """Greedy, drawn, several, beams, stop strings, long and short, more than there are slots."""
    model, reference = models
    settings: list[dict[str, Any]] = [
        {},
        {"max_new_tokens": 1},
        {"max_new_tokens": 40},
        {"temperature": 1.0, "seed": 5},
        {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 6, "num_answers": 3},
        {"num_beams": 3},
        {"num_beams": 4, "num_answers": 2, "length_penalty": 0.5, "max_new_tokens": 6},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 8},
    ]
    tasks = [task(model, f"what is number {i}" * (1 + i % 3) + "?", **one) for i, one in enumerate(settings)]
    plain = alone(reference, 2, tasks[2])
    stop = plain.text[3:5]
    tasks.append(replace(tasks[2], stop=(stop,)))
    expected = [alone(reference, i if i < 9 else 2, one) for i, one in enumerate(tasks)]
    assert expected[9].text == plain.text[: plain.text.index(stop)].strip() != plain.text

    async def together() -> list[list[Event]]:
        tickets = [scheduler.submit(seen(model, i if i < 9 else 2), one) for i, one in enumerate(tasks)]
        return await asyncio.gather(*[events_of(ticket) for ticket in tickets])

    scheduler = Scheduler(model, slots=6)
    try:
        for _ in range(2):  # the second time with states to go on from
            for events, answer in zip(asyncio.run(together()), expected, strict=True):
                # Events keep the order in which answers began; results are ranked.
                assert_same(_ranked(events), answer)
    finally:
        scheduler.close()
    assert len({answer.text for answer in expected}) > 5, "the random model says the same to everything"


def _ranked(events: list[Event]) -> list[Event]:
    order = {
        end.index: place for place, end in enumerate(sorted(ends(events), key=lambda e: -e.result.score))
    }
    return [replace(event, index=order[event.index]) for event in events]


def test_rows_are_batched(model: Model, scheduler: Scheduler) -> None:
    sizes: list[int] = []
    step = model.engine.step

    def counted(state: Any, tokens: Any) -> Any:
        sizes.append(len(tokens))
        return step(state, tokens)

    model.engine.step = counted  # type: ignore[method-assign]

    all_here = threading.Event()
    held_until(all_here, model)

    async def together() -> None:
        long = [task(model, f"{i}?", min_new_tokens=30, max_new_tokens=30) for i in range(4)]
        tickets = [scheduler.submit(seen(model, i), one) for i, one in enumerate(long)]
        all_here.set()
        await asyncio.gather(*[events_of(ticket) for ticket in tickets])

    asyncio.run(together())
    assert max(sizes) == 4
    assert len(sizes) < 2 * 29, "four answers of 30 tokens are not written side by side"


def test_a_conversation_goes_on_from_its_state(model: Model, scheduler: Scheduler) -> None:
    read: list[int] = []
    prefill = model.engine.prefill

    def counted(vectors: Any, prompts: Any, state: Any = None) -> Any:
        common = 0 if state is None else len(state.tokens[0])
        read.append(len(prompts[0]) - common)
        return prefill(vectors, prompts, state)

    model.engine.prefill = counted  # type: ignore[method-assign]

    async def talk() -> Ticket:
        first = task(model, "what is this?", max_new_tokens=8)
        ticket = scheduler.submit(seen(model, 1), first)
        written = ends(await events_of(ticket))[0].result.token_ids
        longer = replace(first, prompt=[*first.prompt, *written, *model.tokenizer.encode("why?")[1:]])
        follow_up = scheduler.submit(seen(model, 1), longer)
        await events_of(follow_up)
        assert follow_up.cached_tokens >= model.engine.config.num_query_tokens + len(first.prompt) + 7
        # Another picture never goes on from this one's.
        other = scheduler.submit(seen(model, 2), longer)
        await events_of(other)
        assert other.cached_tokens == 0
        return ticket

    assert asyncio.run(talk()).cached_tokens == 0
    assert read[1] < read[0] < read[2]


def test_an_abandoned_answer_frees_its_slot_at_the_next_token(model: Model) -> None:
    steps: list[int] = []
    step = model.engine.step
    gate = threading.Semaphore(3)

    def one_by_one(state: Any, tokens: Any) -> Any:
        gate.acquire()
        steps.append(len(tokens))
        return step(state, tokens)

    model.engine.step = one_by_one  # type: ignore[method-assign]
    scheduler = Scheduler(model, slots=2)

    async def leave() -> list[Event]:
        endless = task(model, "?", min_new_tokens=300, max_new_tokens=300)
        gone = scheduler.submit(seen(model, 1), endless)
        stays = scheduler.submit(seen(model, 2), replace(endless, decoding=Decoding(max_new_tokens=6)))
        waits = scheduler.submit(seen(model, 3), replace(endless, decoding=Decoding(max_new_tokens=6)))
        async for _ in gone:
            break
        assert await asyncio.to_thread(wait_until, lambda: len(steps) == 3)
        scheduler.cancel(gone)
        gate.release(2)  # the step that was under way when it left, and the next
        assert await asyncio.to_thread(wait_until, lambda: waits.started is not None)
        assert len(steps) <= 5 and gone.ended is not None
        gate.release(400)
        return [*await events_of(stays), *await events_of(waits)]

    try:
        assert len(ends(asyncio.run(leave()))) == 2
    finally:
        gate.release(400)
        scheduler.close()


def test_a_waiting_client_may_leave_the_queue(model: Model, scheduler: Scheduler) -> None:
    gone = threading.Event()
    held_until(gone, model)

    async def leave() -> None:
        long = [scheduler.submit(seen(model, i), task(model, "?", max_new_tokens=40)) for i in range(4)]
        waiting = scheduler.submit(seen(model, 9), task(model, "?"))
        scheduler.cancel(waiting)
        gone.set()
        await asyncio.gather(*[events_of(ticket) for ticket in long])
        assert waiting.started is None
        assert scheduler.waiting == 0

    asyncio.run(leave())


def test_clients_take_turns(model: Model) -> None:
    """One who sent ten requests first does not hold up another who sent one."""
    scheduler = Scheduler(model, slots=1)

    pictures = [seen(model, i) for i in range(9)]
    one = task(model, "?", max_new_tokens=3)
    all_here = threading.Event()
    held_until(all_here, model)

    async def ask() -> list[str]:
        tickets = [scheduler.submit(picture, one, "greedy") for picture in pictures[:8]]
        modest = scheduler.submit(pictures[8], one, "modest")
        all_here.set()
        await asyncio.gather(*[events_of(ticket) for ticket in [*tickets, modest]])
        started = sorted([*tickets, modest], key=lambda ticket: ticket.started or 0)
        return [ticket.client for ticket in started]

    try:
        assert asyncio.run(ask()).index("modest") <= 3
    finally:
        scheduler.close()


def test_a_request_for_many_answers_is_not_starved(model: Model, scheduler: Scheduler) -> None:
    """Four beams need all four slots; narrow requests that come later do not overtake for ever."""

    pictures = [seen(model, i) for i in range(17)]
    narrow = [task(model, "?", min_new_tokens=3 + i % 4, max_new_tokens=3 + i % 4) for i in range(17)]
    all_here = threading.Event()
    held_until(all_here, model)

    async def ask() -> int:
        tickets = [scheduler.submit(pictures[i], narrow[i]) for i in range(4)]
        wide = scheduler.submit(pictures[4], task(model, "?", num_beams=4))
        tickets += [scheduler.submit(pictures[i], narrow[i]) for i in range(5, 17)]
        all_here.set()
        await asyncio.gather(*[events_of(ticket) for ticket in [*tickets, wide]])
        return sum((ticket.started or 0) < (wide.started or 0) for ticket in tickets)

    assert asyncio.run(ask()) == 4


def test_close_finishes_what_runs_and_takes_no_more(model: Model) -> None:
    scheduler = Scheduler(model, slots=2)

    async def ask() -> list[list[Event]]:
        tickets = [scheduler.submit(seen(model, i), task(model, "?", min_new_tokens=20, max_new_tokens=20))
                   for i in range(5)]  # fmt: skip
        await asyncio.to_thread(scheduler.close)
        with pytest.raises(Stopped):
            scheduler.submit(seen(model, 1), task(model, "?"))
        return await asyncio.gather(*[events_of(ticket) for ticket in tickets])

    written = asyncio.run(ask())
    assert [len(ends(events)[0].result.token_ids) for events in written] == [20] * 5
    assert not scheduler.alive


def test_more_rows_than_slots_are_refused(model: Model, scheduler: Scheduler) -> None:
    async def ask() -> None:
        scheduler.submit(seen(model, 1), task(model, "?", num_beams=5))

    with pytest.raises(ValueError, match="5 rows"):
        asyncio.run(ask())


def test_memory_of_past_conversations_is_bounded(model: Model, scheduler: Scheduler) -> None:
    model.states._max_bytes = 200_000

    async def ask() -> None:
        for number in range(30):
            await events_of(scheduler.submit(seen(model, number), task(model, "?", max_new_tokens=2)))

    asyncio.run(ask())
    assert 0 < model.states.nbytes <= 200_000
