"""One request's rows in the running batch: from logits to tokens, text, and an end.

A batch is driven token by token. `advance` is given the logits of a request's rows and says which of them go on
(a beam may go on twice), each with its next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..checkpoint.config import ModelConfig
from ..checkpoint.tokenizer import Tokenizer
from ..engines.engine import Floats
from .answer import clean
from .beam import BeamSearch
from .loop import Generated, history_before, ranked
from .settings import Decoding, choose, constrain, log_softmax
from .text_stream import TextStream, first_stop


@dataclass(frozen=True)
class Score:
    """A chosen token, its natural-log probability, and the likeliest tokens that stood in its place."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text of answer `index` that may be shown at once; `scores` of the tokens behind it, if asked for."""

    index: int
    text: str
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True)
class End:
    """Answer `index` is complete."""

    index: int
    text: str
    result: Generated


Event = Piece | End


@dataclass(frozen=True)
class Task:
    """What is to be written: tokenised prompt, settings, and the stop strings (template's and client's)."""

    prompt: list[int]
    decoding: Decoding
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None

    @property
    def rows(self) -> int:
        return self.decoding.num_beams if self.decoding.num_beams > 1 else self.decoding.num_answers


class Rows(Protocol):
    """The rows of one task. `events` fills as they advance; the scheduler empties it."""

    events: list[Event]

    def advance(self, logits: Floats) -> tuple[list[int], list[int]]:
        """Logits [R,V] of the rows that are open -> (which of them goes on, with which token), both empty
        once all is written."""


def rows_of(task: Task, tokenizer: Tokenizer, config: ModelConfig) -> Rows:
    """The rows that write `task`."""
    return (Beams if task.decoding.num_beams > 1 else Draws)(task, tokenizer, config)


@dataclass
class _Row:
    index: int
    text: TextStream
    rng: np.random.Generator
    result: Generated = field(default_factory=Generated)
    held: list[Score] = field(default_factory=list)  # scores of tokens whose text is not settled yet


class Draws:
    """`num_answers` answers, each token the likeliest or a draw, as `generation.Writer` chooses them."""

    def __init__(self, task: Task, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self.events: list[Event] = []
        self._task = task
        self._eos = config.text.eos_token_ids
        self._history = history_before(config, task.prompt)
        seed = task.decoding.seed
        self._open = [
            _Row(
                row,
                TextStream(tokenizer, task.stop),
                np.random.default_rng(None if seed is None else (seed, row)),
            )
            for row in range(task.rows)
        ]

    def advance(self, logits: Floats) -> tuple[list[int], list[int]]:
        going_on: list[int] = []
        tokens: list[int] = []
        for place, row in enumerate(self._open):
            token = self._next(row, logits[place])
            if token is not None:
                going_on.append(place)
                tokens.append(token)
        self._open = [self._open[place] for place in going_on]
        return going_on, tokens

    def _next(self, row: _Row, logits: Floats) -> int | None:
        """The row's next token; None when it ends here."""
        decoding, result = self._task.decoding, row.result
        written = len(result.token_ids)
        scores = constrain(logits, decoding, [*self._history, *result.token_ids], written, self._eos)
        token = choose(scores, decoding, row.rng)
        logprobs = log_softmax(logits)
        result.logprobs.append(float(logprobs[token]))
        if token in self._eos:
            self._end(row, "stop")
            return None
        result.token_ids.append(token)
        if self._task.top_logprobs is not None:
            row.held.append(Score(token, result.logprobs[-1], _likeliest(logprobs, self._task.top_logprobs)))
        self._tell(row, row.text.push(token))
        if row.text.stopped:
            self._end(row, "stop")
            return None
        if len(result.token_ids) >= decoding.max_new_tokens:
            self._end(row, "length")
            return None
        return token

    def _tell(self, row: _Row, piece: str) -> None:
        if piece:
            self.events.append(Piece(row.index, piece, tuple(row.held)))
            row.held.clear()

    def _end(self, row: _Row, reason: str) -> None:
        result = row.result
        result.finish_reason = "length" if reason == "length" else "stop"
        length = max(len(result.logprobs), 1)
        result.score = sum(result.logprobs) / length**self._task.decoding.length_penalty
        rest = row.text.finish()
        if rest or row.held:
            self.events.append(Piece(row.index, rest, tuple(row.held)))
        self.events.append(End(row.index, row.text.text, result))


class Beams:
    """One beam search; its answers come whole, when it is over."""

    def __init__(self, task: Task, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self.events: list[Event] = []
        self._task = task
        self._tokenizer = tokenizer
        self._eos = config.text.eos_token_ids
        history = history_before(config, task.prompt)
        self._search = BeamSearch(task.decoding, history, self._eos, self._ends)

    def advance(self, logits: Floats) -> tuple[list[int], list[int]]:
        parents, tokens = self._search.advance(logits)
        if not self._search.done:
            return parents, tokens
        for index, result in enumerate(ranked(self._search, self._task.decoding, self._eos)):
            text = clean(self._tokenizer.decode(result.token_ids), self._task.stop)
            scores = zip(result.token_ids, result.logprobs, strict=False)
            told = tuple(Score(*pair) for pair in scores) if self._task.top_logprobs is not None else ()
            self.events += [Piece(index, text, told), End(index, text, result)]
        return [], []

    def _ends(self, tokens: Sequence[int]) -> bool:
        stop = self._task.stop
        return bool(stop) and first_stop(self._tokenizer.decode(tokens), stop) is not None


def _likeliest(logprobs: Floats, count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    candidates = np.argpartition(-logprobs, min(count, logprobs.size) - 1)[:count]
    best = candidates[np.argsort(-logprobs[candidates], kind="stable")]
    return tuple((int(token), float(logprobs[token])) for token in best)
