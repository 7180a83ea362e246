"""Beam search, step for step as transformers' `generate` does it (version 5, `_beam_search`).

Per step the 2K best continuations of K beams are looked at, so that K can go on even if K of them end. A
continuation that ends counts only if it is among the K best. The search is over when no open beam can beat the
worst of K finished ones, judged at the present length (transformers' `early_stopping=False`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..numerics import log_softmax
from .sampling import constrain
from .settings import Decoding

_NEVER = np.float32(-1.0e9)


@dataclass(frozen=True)
class Hypothesis:
    """One beam: its new tokens, their log-probabilities, and its score."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: np.float32
    finished: bool


class BeamSearch:
    """The K beams of one picture and prompt. Feed it logits; it says which rows go on with which tokens."""

    def __init__(
        self,
        decoding: Decoding,
        history: Sequence[int],
        eos_ids: Sequence[int],
        ends: Callable[[Sequence[int]], bool],
    ) -> None:
        """`history`: what repetition rules see before the first new token; `ends`: a stop string was written."""
        self._decoding = decoding
        self._history = list(history)
        self._eos = tuple(eos_ids)
        self._ends = ends
        beams = decoding.num_beams
        # Only the first beam counts at the start, or all K would be the same.
        self._open = [Hypothesis((), (), np.float32(0) if i == 0 else _NEVER, False) for i in range(beams)]
        # Places still to be filled: worse than anything finished, however long and penalised.
        self._best = [Hypothesis((), (), np.float32(-np.inf), False) for _ in range(beams)]
        self._improvable = True
        self.done = False

    @property
    def best(self) -> list[Hypothesis]:
        """Finished hypotheses, best first."""
        return [one for one in self._best if one.finished]

    def advance(self, logits: NDArray[np.float32]) -> tuple[list[int], list[int]]:
        """Logits [K,V] of the open beams -> (the old beam that each new one grows from, its new token)."""
        plain = log_softmax(logits)
        scores = np.stack([self._constrained(beam, row) for beam, row in zip(self._open, plain, strict=True)])
        scores += np.asarray([beam.score for beam in self._open], np.float32)[:, None]
        beams, vocabulary = scores.shape
        keep = max(2, 1 + len(self._eos)) * beams
        order = _top(scores.ravel(), keep)
        grown = []
        for place in order.tolist():
            parent, token = divmod(place, vocabulary)
            old = self._open[parent]
            grown.append(
                Hypothesis(
                    (*old.tokens, token),
                    (*old.logprobs, float(plain[parent, token])),
                    scores[parent, token],
                    False,
                )
            )
        ending = np.asarray([self._is_end(one.tokens) for one in grown])

        running = np.asarray([one.score for one in grown], np.float32) + ending * _NEVER
        going_on = _top(running, beams).tolist()
        self._collect(grown, ending)
        parents = [int(order[place]) // vocabulary for place in going_on]
        self._open = [Hypothesis(grown[i].tokens, grown[i].logprobs, running[i], False) for i in going_on]
        self._judge(bool(ending.all()))
        return parents, [beam.tokens[-1] for beam in self._open]

    def _constrained(self, beam: Hypothesis, row: NDArray[np.float32]) -> NDArray[np.float32]:
        history = [*self._history, *beam.tokens]
        return constrain(row, self._decoding, history, len(beam.tokens), self._eos)

    def stops(self, tokens: Sequence[int]) -> bool:
        """Whether a stop token or a stop string ends them, and not their number."""
        return tokens[-1] in self._eos or self._ends(tokens)

    def _is_end(self, tokens: Sequence[int]) -> bool:
        return len(tokens) >= self._decoding.max_new_tokens or self.stops(tokens)

    def _collect(self, grown: list[Hypothesis], ending: NDArray[np.bool_]) -> None:
        """The K best of all that is finished, old and new."""
        if not self._improvable or (
            self._decoding.early_stopping and all(one.finished for one in self._best)
        ):
            return
        length = np.float32(len(grown[0].tokens) ** self._decoding.length_penalty)
        new = [
            Hypothesis(one.tokens, one.logprobs, one.score / length, True)
            for one, end in zip(grown[: self._decoding.num_beams], ending, strict=False)
            if end
        ]
        self._best = sorted([*self._best, *new], key=lambda one: -one.score)[: self._decoding.num_beams]

    def _judge(self, all_ended: bool) -> None:
        """Is there anything left to search for?"""
        length = len(self._open[0].tokens)
        possible = self._open[0].score / np.float32(length**self._decoding.length_penalty)
        worst = min(one.score for one in self._best)
        self._improvable = self._improvable and bool(possible > worst)
        full = self._decoding.early_stopping and all(one.finished for one in self._best)
        self.done = not self._improvable or full or all_ended


def _top(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest, largest first; of equals, the first."""
    count = min(count, values.size)
    if count < values.size:
        candidates = np.flatnonzero(values >= np.partition(values, -count)[-count])
    else:
        candidates = np.arange(values.size)
    result: NDArray[np.int64] = candidates[np.argsort(-values[candidates], kind="stable")][:count]
    return result
