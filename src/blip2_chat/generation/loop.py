"""The token loop: many tasks side by side in one engine's batch, one token at a time.

    batch = Batch(engine, tokenizer)
    members = batch.join(query_vectors, tasks)
    while batch.members:
        batch.choose()  # a token for every row; what is complete leaves
        batch.step()  # the engine reads the tokens

Between two tokens tasks may join and leave. Chats, runs, evaluations and the server differ only in what they do
there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..checkpoint.tokenizer import Tokenizer
from ..engines.engine import Engine, Floats, State
from .rows import Generated, Rows, Task, rows_of


@dataclass(eq=False)
class Member:
    """A task in the batch. `width`: how many of the state's rows are its own.

    `cancelled` may be set by any thread: the task leaves at the next token. `failure` is what its own rows raised.
    """

    task: Task
    rows: Rows
    width: int
    cancelled: bool = False
    failure: Exception | None = None


class Batch:
    """The rows that one engine writes together. One thread at a time."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, keep: Callable[[Member, State], None] | None = None
    ) -> None:
        """`keep` is given the state (of one row) that a task leaves behind, for a next prompt to go on from."""
        self.members: list[Member] = []
        self._engine = engine
        self._tokenizer = tokenizer
        self._keep = keep
        self._state: State | None = None
        self._logits: Floats | None = None
        self._count = 0  # of the state's rows, when the tokens were chosen
        self._going_on: list[int] = []
        self._tokens: list[int] = []

    def join(self, query_vectors: Floats, tasks: Sequence[Task], state: State | None = None) -> list[Member]:
        """Reads the prompts of B tasks about pictures [B,Q,D], which join the batch; not between `choose` and `step`.

        `state` of B rows to go on from is used up. Whatever is raised, the batch is as it was before.
        """
        members = [
            Member(task, rows_of(task, self._tokenizer, self._engine.config), task.rows) for task in tasks
        ]
        state, logits = self._engine.prefill(query_vectors, [task.prompt for task in tasks], state)
        copies = [row for row, member in enumerate(members) for _ in range(member.width)]
        if len(copies) > len(tasks):  # several rows of a task share one reading of picture and prompt
            state.reorder(copies)
            logits = logits[copies]
        if self._state is None or self._logits is None:
            self._state, self._logits = state, logits
        else:
            self._state.append(state)
            self._logits = np.concatenate([self._logits, logits])
        self.members += members
        return members

    def choose(self) -> list[Member]:
        """One token for every row -> the members that leave: complete, cancelled, or failed."""
        assert self._state is not None and self._logits is not None, "nothing has joined"
        self._going_on, self._tokens = [], []
        staying: list[Member] = []
        leaving: list[tuple[Member, int]] = []
        offset = 0
        for member in self.members:
            logits = self._logits[offset : offset + member.width]
            parents: list[int] = []
            if not member.cancelled:
                try:
                    parents, tokens = member.rows.advance(logits)
                except Exception as error:  # of this task alone: the others' rows are as they were
                    member.failure = error
            if parents:
                self._going_on += [offset + parent for parent in parents]
                self._tokens += tokens
                staying.append(member)
            else:
                leaving.append((member, offset))
            offset += member.width
            member.width = len(parents)
        self._count = offset
        self.members = staying
        for member, row in leaving:
            self._leave(member, row)
        if not staying:
            self._state = self._logits = None
        return [member for member, _ in leaving]

    def step(self) -> None:
        """The engine reads the chosen tokens. Does nothing when everything is written."""
        if self._state is None:
            return
        if self._going_on != list(range(self._count)):
            self._state.reorder(self._going_on)
        self._logits = self._engine.step(self._state, self._tokens)

    def clear(self) -> list[Member]:
        """Gives everything up -> what was being written."""
        members, self.members = self.members, []
        self._state = self._logits = None
        return members

    def _leave(self, member: Member, row: int) -> None:
        """Hands over what the row knows. Not after a failure: the state may have had a part in it."""
        if self._keep is None or member.failure is not None:
            return
        assert self._state is not None
        length = None
        if member.task.decoding.num_beams > 1 or member.task.choices:
            # A beam's row, or a choice's, is one of many ways on; the prompt is what they share.
            has_encoder = self._engine.config.text.decoder_start_token_id is not None
            length = 0 if has_encoder else len(member.task.prompt)
        self._keep(member, self._state if self._count == 1 else self._state.take([row], length))


def generate(
    engine: Engine, tokenizer: Tokenizer, query_vectors: Floats, tasks: Sequence[Task]
) -> list[list[Generated]]:
    """Writes B tasks about B pictures -> the `num_answers` answers of each, best first. `query_vectors` [B,Q,D]."""
    batch = Batch(engine, tokenizer)
    members = batch.join(query_vectors, tasks)
    while batch.members:
        for member in batch.choose():
            if member.failure is not None:
                raise member.failure
        batch.step()
    return [member.rows.results for member in members]
