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
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import numpy as np

from ..engines.engine import Floats, State
from ..generation.reuse import QueryVectorCache
from ..generation.rows import Event, Rows, Task, rows_of
from ..model import Model
from .pictures.open import Seen

log = logging.getLogger(__name__)

# Seconds that writing rows wait, at most, for new pictures and prompts to be read; one is always read.
_PATIENCE = 0.1


class Stopped(Exception):
    """The scheduler takes no more work."""


@dataclass(eq=False)
class Ticket:
    """A submitted task, seen from the event loop: iterate for its events. `cancel` it when nobody listens."""

    seen: Seen
    task: Task
    client: str
    loop: asyncio.AbstractEventLoop
    submitted: float
    started: float | None = None  # when its picture and prompt had been read
    ended: float | None = None
    cached_tokens: int = 0  # of picture and prompt, found in the state of an earlier request
    cancelled: bool = False
    _mail: asyncio.Queue[Event | BaseException | None] = field(default_factory=asyncio.Queue)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._mail.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event

    def deliver(self, events: Iterable[Event | BaseException | None]) -> None:
        """Called on the event loop."""
        for event in events:
            self._mail.put_nowait(event)


@dataclass
class _Job:
    """A ticket in the batch. `width`: how many of the state's rows are its own."""

    ticket: Ticket
    rows: Rows
    width: int


class Scheduler:
    """`submit` from the event loop; everything else happens in the thread."""

    def __init__(self, model: Model, slots: int) -> None:
        self.slots = slots
        self._model = model
        self._vectors = QueryVectorCache()
        self._changed = threading.Condition()
        # Per client, first come first served; clients take turns.
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._closing = False
        # Below: the thread's own.
        self._jobs: list[_Job] = []
        self._state: State | None = None
        self._logits: Floats | None = None
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
        return sum(job.width for job in list(self._jobs))

    @property
    def wait(self) -> float:
        """Seconds until a request that came now would have its turn, roughly."""
        return self._pace * (1 + self.waiting / self.slots)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    def submit(self, seen: Seen, task: Task, client: str = "") -> Ticket:
        """Takes a place in the queue. `ValueError` for more rows than there are slots, `Stopped` after `close`."""
        if task.rows > self.slots:
            raise ValueError(f"{task.rows} rows are more than the {self.slots} slots")
        now = time.monotonic()
        with self._changed:
            if self._closing:
                raise Stopped
            ticket = Ticket(seen, task, client, asyncio.get_running_loop(), now)
            self._waiting.setdefault(client, deque()).append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Frees the ticket's slots at the next token; nothing more is delivered. Also for one that is over."""
        ticket.cancelled = True
        with self._changed:
            line = self._waiting.get(ticket.client)
            if line and ticket in line:
                line.remove(ticket)
                if not line:
                    del self._waiting[ticket.client]

    def close(self) -> None:
        """Finishes what runs and waits, then ends the thread; blocks until then."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._jobs and not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing and not self._jobs and not self._waiting:
                    return
            try:
                self._admit()
                self._advance()
            except Exception as error:
                log.error("a step of the batch failed: %s", type(error).__name__)
                self._fail(self._jobs, error)
                self._jobs, self._state, self._logits = [], None, None
            self._send()

    # Joining

    def _admit(self) -> None:
        """Lets waiting tickets join while there is room, in turn."""
        free = self.slots - self.busy_rows
        joining: list[tuple[Ticket, Floats]] = []
        started = time.monotonic()
        while free > 0 and (not joining or time.monotonic() - started < _PATIENCE):
            ticket = self._next(free)
            if ticket is None:
                break
            try:
                joining.append((ticket, self._read(ticket.seen)))
                free -= ticket.task.rows
            except Exception as error:
                self._refuse([ticket], error)
        fresh: list[tuple[Ticket, Floats]] = []
        for ticket, vectors in joining:
            state = self._model.states.take(ticket.seen.digest, ticket.task.prompt)
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

    def _read(self, seen: Seen) -> Floats:
        vectors = self._vectors.get(seen.digest)
        if vectors is None:
            vectors = self._model.engine.encode_image(seen.pixels)
            self._vectors.put(seen.digest, vectors)
        return vectors

    def _join(self, group: list[tuple[Ticket, Floats]], state: State | None = None) -> None:
        tickets = [ticket for ticket, _ in group]
        prompts = [ticket.task.prompt for ticket in tickets]
        if state is not None:
            tickets[0].cached_tokens = self._reused(state, prompts[0])
        try:
            model = self._model
            written = [rows_of(ticket.task, model.tokenizer, model.engine.config) for ticket in tickets]
            vectors = np.concatenate([vectors for _, vectors in group])
            state, logits = model.engine.prefill(vectors, prompts, state)
            widths = [ticket.task.rows for ticket in tickets]
            if max(widths) > 1:
                copies = [row for row, width in enumerate(widths) for _ in range(width)]
                state.reorder(copies)
                logits = logits[copies]
            if self._state is None or self._logits is None:
                self._state, self._logits = state, logits
            else:
                self._state.append(state)
                self._logits = np.concatenate([self._logits, logits])
        except Exception as error:
            if len(group) > 1:
                for one in group:  # one may be to blame, or all at once be too large for the memory
                    self._join([one])
            else:
                self._refuse(tickets, error)
            return
        now = time.monotonic()
        for ticket, rows, width in zip(tickets, written, widths, strict=True):
            ticket.started = now
            self._jobs.append(_Job(ticket, rows, width))

    def _reused(self, state: State, prompt: list[int]) -> int:
        """Tokens of picture and prompt that need not be read with this state."""
        config = self._model.engine.config
        # A decoder-only model reads the last one again, for its logits.
        most = len(prompt) - (config.family == "opt")
        reusable = state.reusable(prompt)
        return 0 if reusable is None else config.num_query_tokens + min(reusable, most)

    # Writing

    def _advance(self) -> None:
        """One token for every row; rows that end, and those of the abandoned, leave."""
        if self._state is None or self._logits is None:
            return
        rows: list[int] = []
        tokens: list[int] = []
        staying: list[_Job] = []
        offset = 0
        for job in self._jobs:
            own = range(offset, offset + job.width)
            offset += job.width
            parents: list[int] = []
            failure: Exception | None = None
            if not job.ticket.cancelled:
                try:
                    parents, new = job.rows.advance(self._logits[own.start : own.stop])
                except Exception as error:  # of this answer alone: the others' rows are as they were
                    log.error("an answer failed at a token: %s", type(error).__name__)
                    failure = error
            if parents:
                staying.append(job)
                rows += [own.start + parent for parent in parents]
                tokens += new
                job.width = len(parents)
            else:
                if failure is None:  # what it failed of, its state may have
                    self._keep(job, own.start)
                job.ticket.ended = time.monotonic()
                self._learn_pace(job.ticket)
            ending = [] if parents else [failure]  # None: as it should
            self._post(job.ticket, [*job.rows.events, *ending])
            job.rows.events = []
        self._jobs = staying
        self._send()
        if not rows:
            self._state = self._logits = None
            return
        if rows != list(range(offset)):
            self._state.reorder(rows)
        self._logits = self._model.engine.step(self._state, tokens)
        self.steps += 1

    def _learn_pace(self, ticket: Ticket) -> None:
        took = (ticket.ended or 0.0) - (ticket.started or 0.0)
        self._pace += 0.1 * (took - self._pace)

    def _keep(self, job: _Job, row: int) -> None:
        """Keeps what the row knows, for the conversation's next question."""
        assert self._state is not None
        task = job.ticket.task
        state = self._state.take([row])
        if task.decoding.num_beams > 1:
            # A beam's row is one of many ways on; the prompt is what they share.
            state.truncate(0 if self._model.engine.config.family == "t5" else len(task.prompt))
        self._model.states.put(job.ticket.seen.digest, state)

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

    def _fail(self, jobs: list[_Job], error: BaseException) -> None:
        for job in jobs:
            self._post(job.ticket, [error])


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
