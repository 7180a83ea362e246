"""An answer, and the writing of one: tokens from the engine, pieces of text to the reader."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..checkpoint.tokenizer import Tokenizer
from ..display import ShownAnswer, answer_html
from ..engines.engine import Engine, Floats, State
from .loop import Batch
from .rows import FinishReason, Generated, Piece, Task


@dataclass(frozen=True, eq=False, repr=False)
class Answer(str):
    """What the model wrote: a string, with what is known about it as attributes.

    It compares, hashes, formats, slices and encodes as JSON like any other string; what is cut out of it or
    added to it is a plain string. `text` is the same text as a plain string.

    `tokens` are the generated ids without the stop token, `logprobs` the natural-log probability of each
    chosen token (the stop token's last, if there was one), `score` their sum / count ** length_penalty.
    `finish_reason` is "stop", "length" (max_new_tokens reached) or "interrupted". `others` are the further
    answers when several were asked for, best first. `seconds` runs from the question to the last word,
    `first_word_seconds` to the first; reading the picture counts if it was not read before.
    """

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    score: float = 0.0
    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 0
    seconds: float = 0.0
    first_word_seconds: float = 0.0
    others: tuple[Answer, ...] = ()

    def __new__(cls, text: str, *_: Any, **__: Any) -> Answer:
        return str.__new__(cls, text)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", str(self.text))  # of another Answer its text alone

    def __repr__(self) -> str:
        """One line, however long the answer's details are."""
        more = f", others={len(self.others)}" if self.others else ""
        return (
            f"Answer({self.text!r}, score={self.score:.3g}, tokens={len(self.tokens)}, "
            f"finish_reason={self.finish_reason!r}, seconds={self.seconds:.3g}{more})"
        )

    def _repr_html_(self) -> str:
        others = [other.text for other in self.others]
        shown = ShownAnswer(self.text, len(self.tokens), self.seconds, self.finish_reason, others)
        return answer_html(shown)


class Writing:
    """One answer in the making: iterate for the pieces of its text, then take `answer()`.

    Broken off (by an exception, or because the reader stopped reading), `answer()` is what there is so far,
    with `finish_reason` "interrupted". Several answers, and beams, come as one piece at the end.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        query_vectors: Floats,
        task: Task,
        state: State | None = None,
        keep: Callable[[State], None] = lambda state: None,
        started: float | None = None,
    ) -> None:
        """`state` is one to go on from, and is used up; `keep` is given the state of a complete answer."""
        self._vectors = query_vectors
        self._task = task
        self._before = state
        self._batch = Batch(engine, tokenizer, lambda member, state: keep(state))
        self._started = time.perf_counter() if started is None else started
        self._first_word: float | None = None
        self._ended: float | None = None
        self._results: list[Generated] = []

    def __iter__(self) -> Iterator[str]:
        (member,) = self._batch.join(self._vectors, [self._task], self._before)
        rows = member.rows
        if self._task.rows == 1:
            self._results = rows.results
        while self._batch.members:
            self._batch.choose()
            if member.failure is not None:
                raise member.failure
            events, rows.events = rows.events, []
            if self._task.rows == 1:
                yield from self._read([event.text for event in events if isinstance(event, Piece)])
            self._batch.step()
        if self._task.rows > 1:
            self._results = rows.results
            yield from self._read([self._results[0].text])
        self._ended = time.perf_counter()

    def _read(self, pieces: Sequence[str]) -> Iterator[str]:
        for piece in pieces:
            if piece:
                self._first_word = self._first_word or time.perf_counter()
                yield piece

    def answer(self) -> Answer:
        """The answer as far as it is written."""
        now = self._ended or time.perf_counter()
        results = self._results or [Generated()]
        others = tuple(self._as_answer(one, now) for one in results[1:])
        return self._as_answer(results[0], now, others)

    def _as_answer(self, one: Generated, now: float, others: tuple[Answer, ...] = ()) -> Answer:
        return Answer(
            text=one.text,
            tokens=tuple(one.token_ids),
            logprobs=tuple(one.logprobs),
            score=one.score,
            finish_reason=one.finish_reason if self._ended else "interrupted",
            prompt_tokens=len(self._task.prompt) + self._vectors.shape[1],
            seconds=now - self._started,
            first_word_seconds=(self._first_word or now) - self._started,
            others=others,
        )
