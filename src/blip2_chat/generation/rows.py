"""From logits to tokens, text and an end: the only place where tokens are chosen.

A `Task` is what is to be written; its `Rows` take the logits of the rows that are still open, and say which of them
go on (a beam may go on twice), each with which token. `loop.Batch` does the rest: it runs the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from ..checkpoint.config import ModelConfig
from ..checkpoint.tokenizer import Tokenizer
from ..engines.engine import Floats
from ..numerics import log_softmax
from .beam import BeamSearch
from .sampling import choose, constrain
from .settings import Decoding
from .text_stream import TextStream, clean, first_stop

FinishReason = Literal["stop", "length", "interrupted"]


@dataclass
class Generated:
    """One written sequence, without its stop token.

    `logprobs` has one entry per chosen token, the stop token's included; `score` is their sum divided by their
    number ** `length_penalty`, the measure of beam search. `text` is cut before a stop string, and stripped.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    score: float = 0.0
    finish_reason: FinishReason = "interrupted"
    text: str = ""

    @property
    def mean_logprob(self) -> float:
        """The mean log-probability of a token: 0 at best."""
        return sum(self.logprobs) / max(len(self.logprobs), 1)


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
    result: Generated

    @property
    def text(self) -> str:
        return self.result.text


Event = Piece | End


@dataclass(frozen=True)
class Choice:
    """A given answer: its text, and the tokens by which it would be written, with an end token last."""

    text: str
    token_ids: tuple[int, ...]


def tokenise_choices(
    texts: Sequence[str], prompt: str, tokenizer: Tokenizer, config: ModelConfig
) -> tuple[Choice, ...]:
    """Answers to choose from after a prompt."""
    end = config.text.eos_token_ids[0]
    return tuple(Choice(text, (*tokenizer.encode_answer(text, prompt), end)) for text in texts)


@dataclass(frozen=True)
class Task:
    """What is to be written: a tokenised prompt, settings, and all stop strings (the template's and the client's).

    top_logprobs: how many of the most probable tokens each `Piece` reports, too (None: no scores at all).
    seeds: what sampling is seeded with, besides an answer's number; by default `decoding.seed`. Give more numbers
    to make samples depend on something else, such as the picture.
    choices: given answers to rank in place of writing one, each tokenised (`tokenise_choices`) and with its text.
    instruction: the prompt in the Q-Former's ids, where it reads it.
    begun: tokens that every answer begins with, whatever the model would write (not for beams and choices).
    """

    prompt: list[int]
    decoding: Decoding
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    seeds: tuple[int, ...] | None = None
    choices: tuple[Choice, ...] = ()
    instruction: tuple[int, ...] = ()
    begun: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows of a batch it takes."""
        if self.choices:
            return len(self.choices)
        return self.decoding.num_beams if self.decoding.num_beams > 1 else self.decoding.num_answers

    def generator(self, answer: int) -> np.random.Generator | None:
        """The random numbers of an answer; None when nothing is sampled."""
        if self.decoding.temperature == 0:
            return None
        seeds = self.seeds
        if seeds is None and self.decoding.seed is not None:
            seeds = (self.decoding.seed,)
        return np.random.default_rng(None if seeds is None else (*seeds, answer))


class Rows(Protocol):
    """The rows of one task."""

    events: list[Event]  # what happened since the list was last emptied, by the reader

    @property
    def results(self) -> list[Generated]:
        """The answers as far as they are written, best first once all are complete."""

    def advance(self, logits: Floats) -> tuple[list[int], list[int]]:
        """Logits [R,V] of the rows that are open -> (which of them go on, each with which token), both empty once
        everything is written."""


def rows_of(task: Task, tokenizer: Tokenizer, config: ModelConfig) -> Rows:
    """The rows that write `task`."""
    if task.choices:
        return Choices(task)
    return (Beams if task.decoding.num_beams > 1 else Samples)(task, tokenizer, config)


@dataclass
class _Row:
    index: int
    text: TextStream
    rng: np.random.Generator | None
    history: list[int]  # what repetition rules look at
    result: Generated = field(default_factory=Generated)
    held: list[Score] = field(default_factory=list)  # scores of tokens whose text is not settled yet


class Samples:
    """`num_answers` answers, each token the likeliest or a sample."""

    def __init__(self, task: Task, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self.events: list[Event] = []
        self._task = task
        self._tokenizer = tokenizer
        self._eos = config.text.eos_token_ids
        history = history_before(config, task.prompt)
        self._rows = [
            _Row(index, TextStream(tokenizer, task.stop), task.generator(index), list(history))
            for index in range(task.rows)
        ]
        self._open = list(self._rows)

    @property
    def results(self) -> list[Generated]:
        written = [row.result for row in self._rows]
        return written if self._open else sorted(written, key=lambda one: -one.score)

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
        if written < len(self._task.begun):
            token = self._task.begun[written]
        else:
            scores = constrain(logits, decoding, row.history, written, self._eos)
            token = choose(scores, decoding, row.rng)
        logprobs = log_softmax(logits)
        result.logprobs.append(float(logprobs[token]))
        if token in self._eos:
            self._end(row, "stop")
            return None
        result.token_ids.append(token)
        row.history.append(token)
        if self._task.top_logprobs is not None:
            row.held.append(Score(token, result.logprobs[-1], _likeliest(logprobs, self._task.top_logprobs)))
        piece = row.text.push(token)
        result.text = row.text.text
        self._show(row, piece)
        if row.text.stopped:
            self._end(row, "stop")
        elif len(result.token_ids) >= decoding.max_new_tokens:
            self._end(row, "length")
        else:
            return token
        return None

    def _show(self, row: _Row, piece: str) -> None:
        if piece:
            self.events.append(Piece(row.index, piece, tuple(row.held)))
            row.held.clear()

    def _end(self, row: _Row, reason: FinishReason) -> None:
        result = row.result
        result.finish_reason = reason
        result.score = sum(result.logprobs) / len(result.logprobs) ** self._task.decoding.length_penalty
        rest = row.text.finish()
        if rest or row.held:
            self.events.append(Piece(row.index, rest, tuple(row.held)))
        result.text = clean(self._tokenizer.decode(result.token_ids), self._task.stop)
        self.events.append(End(row.index, result))


class Beams:
    """One beam search; its answers come whole, when it is over."""

    def __init__(self, task: Task, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self.events: list[Event] = []
        self.results: list[Generated] = []
        self._task = task
        self._tokenizer = tokenizer
        self._eos = config.text.eos_token_ids
        self._search = BeamSearch(task.decoding, history_before(config, task.prompt), self._eos, self._stops)

    def advance(self, logits: Floats) -> tuple[list[int], list[int]]:
        parents, tokens = self._search.advance(logits)
        if not self._search.done:
            return parents, tokens
        for one in self._search.best[: self._task.decoding.num_answers]:
            written = list(one.tokens)
            reason: FinishReason = "stop" if self._search.stops(written) else "length"
            while written and written[-1] in self._eos:
                written.pop()
            text = clean(self._tokenizer.decode(written), self._task.stop)
            self.results.append(Generated(written, list(one.logprobs), float(one.score), reason, text))
        for index, result in enumerate(self.results):
            scores = zip(result.token_ids, result.logprobs, strict=False)
            shown = tuple(Score(*pair) for pair in scores) if self._task.top_logprobs is not None else ()
            self.events += [Piece(index, result.text, shown), End(index, result)]
        return [], []

    def _stops(self, tokens: Sequence[int]) -> bool:
        stop = self._task.stop
        return bool(stop) and first_stop(self._tokenizer.decode(tokens), stop) is not None


class Choices:
    """Given answers, each written token by token whatever the model thinks of it (teacher forcing), and ranked by
    the sum of their tokens' log-probabilities, the end token's included: `Generated.score`. No setting of `Decoding`
    applies. An `End` has the place of its answer among the task's choices as its index."""

    def __init__(self, task: Task) -> None:
        self.events: list[Event] = []
        self._choices = task.choices
        self._logprobs: list[list[float]] = [[] for _ in task.choices]
        self._open = list(range(len(task.choices)))  # the choices that the rows belong to

    @property
    def results(self) -> list[Generated]:
        return sorted(map(self._result, range(len(self._choices))), key=lambda one: -one.score)

    def _result(self, index: int) -> Generated:
        choice, logprobs = self._choices[index], self._logprobs[index]
        written = list(choice.token_ids[: len(logprobs)])
        if len(written) < len(choice.token_ids):
            return Generated(written, logprobs, sum(logprobs), "interrupted", choice.text)
        return Generated(written[:-1], logprobs, sum(logprobs), "stop", choice.text)

    def advance(self, logits: Floats) -> tuple[list[int], list[int]]:
        going_on: list[int] = []
        tokens: list[int] = []
        for row, index in enumerate(self._open):
            token_ids, logprobs = self._choices[index].token_ids, self._logprobs[index]
            token = token_ids[len(logprobs)]
            logprobs.append(float(log_softmax(logits[row])[token]))
            if len(logprobs) < len(token_ids):
                going_on.append(row)
                tokens.append(token)
            else:
                self.events.append(End(index, self._result(index)))
        self._open = [self._open[row] for row in going_on]
        return going_on, tokens


def history_before(config: ModelConfig, prompt: Sequence[int]) -> list[int]:
    """What repetition rules look at before the first new token, as in transformers: for decoder-only models the
    picture tokens and the prompt; for T5 the decoder's start token."""
    if config.text.decoder_start_token_id is not None:
        return [config.text.decoder_start_token_id]
    picture = [] if config.image_token_id is None else [config.image_token_id] * config.num_query_tokens
    return [*picture, *prompt]


def _likeliest(logprobs: Floats, count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    candidates = np.argpartition(-logprobs, min(count, logprobs.size) - 1)[:count]
    best = candidates[np.argsort(-logprobs[candidates], kind="stable")]
    return tuple((int(token), float(logprobs[token])) for token in best)
