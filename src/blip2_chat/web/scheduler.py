"""Continuous batching: one thread owns the model and writes all requests' answers side by side.

Between two tokens waiting requests join the batch and complete or abandoned ones leave it. Reading a new picture
holds everybody up, so only so much of it is done between two tokens.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engines.engine import Floats, State
from ..generation.loop import Batch, Member
from ..generation.reuse import kept_under
from ..generation.rows import Event, Task
from ..images import PreparedPicture
from ..model import Model

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The scheduler takes no more work."""


@dataclass(eq=False)
class Ticket:
    """A submitted task, seen from the event loop: iterate for its events. `cancel` it when the client has
    gone."""

    picture: PreparedPicture
    task: Task
    client: str
    loop: asyncio.AbstractEventLoop
    submitted: float
    started: float | None = None  # when its picture and prompt had been read
    ended: float | None = None
    cached_tokens: int = 0  # of picture and prompt, found in the state of an earlier request
    cancelled: bool = False
    member: Member | None = None  # of the batch, from when its prompt has been read
    _mail: asyncio.Queue[Event | BaseException | None] = field(default_factory=asyncio.Queue)

    @property
    def key(self) -> str:
        """What states of the same picture (and instruction, where the Q-Former reads it) are kept under."""
        return kept_under(self.picture.digest, self.task.instruction)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._mail.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event

    def deliver(self, events: Iterable[Event | BaseException | None]) -> None:
        """Called on the event loop."""
        for event in events:
            self._mail.put_nowait(event)


@dataclass(eq=False)
class _Work:
    """Work for the model between generation steps, itself in steps. `cancelled`: the client has gone."""

    steps: Generator[Any, None, Any]
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[Any]
    cancelled: bool = False


class Scheduler:
    """`submit` from the event loop; everything else happens in the thread."""

    def __init__(self, model: Model, slots: int, patience: float = 0.1) -> None:
        """`patience`: seconds that answers which are being written wait, at most, for new pictures and prompts to be
        read; one is always read."""
        self.slots = slots
        self._patience = patience
        self._model = model
        self._changed = threading.Condition()
        # Per client, first come first served; clients take turns.
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._closing = False
        self._works: deque[_Work] = deque()
        # Below: the thread's own.
        self._batch = Batch(model.engine, model.tokenizer, self._keep)
        self._tickets: dict[Member, Ticket] = {}  # those that are being written
        self._mail: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, list[Event | BaseException | None]]]]
        self._mail = defaultdict(list)
        self._pace = 1.0  # seconds that an answer takes, a moving average
        self.steps = 0
        self._thread = threading.Thread(target=self._run, name="blip2-chat scheduler", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return sum(len(line) for line in list(self._waiting.values()))

    @property
    def busy_rows(self) -> int:
        return sum(member.width for member in list(self._batch.members))

    @property
    def wait(self) -> float:
        """Seconds until a request that came now would have its turn, roughly."""
        return self._pace * (1 + self.waiting / self.slots)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    def submit(self, picture: PreparedPicture, task: Task, client: str = "") -> Ticket:
        """Takes a place in the queue. `ValueError` for more rows than there are slots, `Stopped` after `close`."""
        if task.rows > self.slots:
            raise ValueError(f"{task.rows} rows are more than the {self.slots} slots")
        now = time.monotonic()
        with self._changed:
            if self._closing:
                raise Stopped
            ticket = Ticket(picture, task, client, asyncio.get_running_loop(), now)
            self._waiting.setdefault(client, deque()).append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Frees the ticket's slots at the next token; nothing more is delivered. Also for one that is over."""
        ticket.cancelled = True
        if ticket.member is not None:
            ticket.member.cancelled = True
        with self._changed:
            line = self._waiting.get(ticket.client)
            if line and ticket in line:
                line.remove(ticket)
                if not line:
                    del self._waiting[ticket.client]

    async def work(self, steps: Generator[Any, None, Any]) -> Any:
        """What a generator returns, run in the model's thread, one step between two tokens of the answers in
        progress. Given up at the next step when this is cancelled. Raises `Stopped`, and what the generator does."""
        loop = asyncio.get_running_loop()
        work = _Work(steps, loop, loop.create_future())
        with self._changed:
            if self._closing:
                raise Stopped
            self._works.append(work)
            self._changed.notify()
        try:
            return await work.result
        finally:
            work.cancelled = True

    def close(self) -> None:
        """Finishes what runs and waits, then ends the thread; blocks until then."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._batch.members and not self._waiting and not self._works and not self._closing:
                    self._changed.wait()
                if self._closing and not self._batch.members and not self._waiting and not self._works:
                    return
            try:
                self._admit()
                self._advance()
            except Exception as error:
                log.error("a step of the batch failed: %s", type(error).__name__)
                self._batch.clear()
                for ticket in self._tickets.values():
                    self._post(ticket, [error])
                self._tickets.clear()
            self._send()
            if self._works:
                self._step(self._works.popleft())

    def _step(self, work: _Work) -> None:
        """One step of what is first in line; unfinished, it goes to the end."""
        if work.cancelled:
            work.steps.close()
            return
        try:
            next(work.steps)
        except StopIteration as end:
            _settle(work, end.value, None)
        except Exception as error:
            log.error("work beside the answers failed: %s", type(error).__name__)
            _settle(work, None, error)
        else:
            self._works.append(work)

    # Joining

    def _admit(self) -> None:
        """Lets waiting tickets join while there is room, in turn."""
        free = self.slots - self.busy_rows
        joining: list[tuple[Ticket, Floats]] = []
        started = time.monotonic()
        while free > 0 and (not joining or time.monotonic() - started < self._patience):
            ticket = self._next(free)
            if ticket is None:
                break
            try:
                joining.append((ticket, self._model.query_vectors(ticket.picture, ticket.task.instruction)))
                free -= ticket.task.rows
            except Exception as error:
                self._refuse([ticket], error)
        fresh: list[tuple[Ticket, Floats]] = []
        for ticket, vectors in joining:
            state = self._model.states.take(ticket.key, ticket.task.prompt)
            if state is None:
                fresh.append((ticket, vectors))
            else:
                self._join([(ticket, vectors)], state)
        for group in _alike(fresh):
            self._join(group)

    def _next(self, free: int) -> Ticket | None:
        """The next ticket in line, unless it needs more rows than are free: it is waited for, or it would never
        have its turn."""
        with self._changed:
            for client, line in self._waiting.items():
                if line[0].task.rows > free:
                    return None
                ticket = line.popleft()
                if line:
                    self._waiting.move_to_end(client)
                else:
                    del self._waiting[client]
                return ticket
        return None

    def _join(self, group: list[tuple[Ticket, Floats]], state: State | None = None) -> None:
        tickets = [ticket for ticket, _ in group]
        if state is not None:
            tickets[0].cached_tokens = self._reused(state, tickets[0].task.prompt)
        try:
            vectors = np.concatenate([vectors for _, vectors in group])
            members = self._batch.join(vectors, [ticket.task for ticket in tickets], state)
        except Exception as error:
            if len(group) > 1:
                for one in group:  # one may be to blame, or all at once be too large for the memory
                    self._join([one])
            else:
                self._refuse(tickets, error)
            return
        now = time.monotonic()
        for ticket, member in zip(tickets, members, strict=True):
            ticket.started = now
            ticket.member = member
            member.cancelled = ticket.cancelled  # it may have been before it had a member
            self._tickets[member] = ticket

    def _reused(self, state: State, prompt: list[int]) -> int:
        """Tokens of picture and prompt that need not be read with this state."""
        config = self._model.engine.config
        # A decoder-only model reads the last one again, for its logits.
        most = len(prompt) - config.text.is_decoder_only
        reusable = state.reusable(prompt)
        return 0 if reusable is None else config.num_query_tokens + min(reusable, most)

    # Writing

    def _advance(self) -> None:
        """One token for every row; rows that end, and those of the abandoned, leave."""
        if not self._batch.members:
            return
        over = self._batch.choose()
        for member, ticket in list(self._tickets.items()):
            events: list[Event | BaseException | None] = [*member.rows.events]
            member.rows.events.clear()
            if member in over:
                if member.failure is not None:
                    log.error("an answer failed at a token: %s", type(member.failure).__name__)
                events.append(member.failure)  # None: it ended as it should
                ticket.ended = time.monotonic()
                self._learn_pace(ticket)
                del self._tickets[member]
            self._post(ticket, events)
        self._send()
        if self._batch.members:
            self._batch.step()
            self.steps += 1

    def _learn_pace(self, ticket: Ticket) -> None:
        took = (ticket.ended or 0.0) - (ticket.started or 0.0)
        self._pace += 0.1 * (took - self._pace)

    def _keep(self, member: Member, state: State) -> None:
        """Keeps what a request leaves behind, for the conversation's next question."""
        self._model.states.put(self._tickets[member].key, state)

    # Telling

    def _post(self, ticket: Ticket, events: list[Event | BaseException | None]) -> None:
        if events and not ticket.cancelled:
            self._mail[ticket.loop].append((ticket, events))

    def _send(self) -> None:
        """Everything that was posted, in one call per event loop."""
        mail, self._mail = self._mail, defaultdict(list)
        for loop, letters in mail.items():
            try:
                loop.call_soon_threadsafe(_deliver, letters)
            except RuntimeError:  # that loop is closed: nobody listens
                log.debug("an event loop closed before its answers were written")

    def _refuse(self, tickets: list[Ticket], error: BaseException) -> None:
        log.error("a request could not be read: %s", type(error).__name__)
        for ticket in tickets:
            self._post(ticket, [error])


def _settle(work: _Work, value: Any, error: Exception | None) -> None:
    def settle() -> None:
        if work.result.done():
            return
        if error is None:
            work.result.set_result(value)
        else:
            work.result.set_exception(error)

    try:
        work.loop.call_soon_threadsafe(settle)
    except RuntimeError:
        log.debug("an event loop closed before its work was done")


def _deliver(letters: list[tuple[Ticket, list[Event | BaseException | None]]]) -> None:
    for ticket, events in letters:
        ticket.deliver(events)


def _alike(group: list[tuple[Ticket, Floats]]) -> list[list[tuple[Ticket, Floats]]]:
    """Prompts of similar length together: rows read side by side are filled up to the longest."""
    groups: list[list[tuple[Ticket, Floats]]] = []
    for entry in sorted(group, key=lambda one: len(one[0].task.prompt)):
        if groups and len(entry[0].task.prompt) <= 2 * len(groups[-1][0][0].task.prompt):
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return groups
