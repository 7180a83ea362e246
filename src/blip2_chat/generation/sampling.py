"""From one row of logits to its next token: constraints, temperature, top-k, top-p, and the choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .settings import Decoding

Row = NDArray[np.float32]  # [V]


def constrain(
    scores: Row, decoding: Decoding, history: Sequence[int], generated: int, eos_ids: Sequence[int]
) -> Row:
    """Repetition penalty, no-repeat-ngram and the minimum length, in transformers' order.

    `scores` [V] are logits or log-probabilities; `history` is the row so far (for OPT with the picture tokens
    and the prompt, as transformers counts it), `generated` how many of its tokens are new. Returns a new row
    when anything changes.
    """
    if decoding.repetition_penalty != 1.0 and history:
        scores = scores.copy()
        seen = np.unique(np.asarray(history, dtype=np.int64))
        kept = scores[seen]
        scores[seen] = np.where(
            kept < 0, kept * decoding.repetition_penalty, kept / decoding.repetition_penalty
        )
    size = decoding.no_repeat_ngram_size
    if size and len(history) + 1 >= size:
        banned = _would_repeat(history, size)
        if banned:
            scores = scores.copy()
            scores[banned] = -np.inf
    if generated < decoding.min_new_tokens:
        scores = scores.copy()
        scores[list(eos_ids)] = -np.inf
    return scores


def _would_repeat(history: Sequence[int], size: int) -> list[int]:
    """The tokens that would complete an n-gram of `size` for the second time."""
    tail = tuple(history[len(history) - size + 1 :])
    starts = range(len(history) - size + 1)
    return sorted({history[at + size - 1] for at in starts if tuple(history[at : at + size - 1]) == tail})


def probabilities(scores: Row, decoding: Decoding) -> NDArray[np.float64]:
    """Temperature, then top-k, then top-p (nucleus: Holtzman et al. 2020) -> a distribution over V tokens."""
    scores = scores.astype(np.float64)
    with np.errstate(over="ignore"):
        # The likeliest becomes 0, so that near temperature 0 quotients are beyond all numbers downwards only.
        scaled = (scores - scores.max()) / decoding.temperature
    if decoding.top_k is not None and decoding.top_k < scaled.size:
        smallest = np.partition(scaled, -decoding.top_k)[-decoding.top_k]
        scaled = np.where(scaled < smallest, -np.inf, scaled)
    chances: NDArray[np.float64] = np.exp(scaled)
    chances /= chances.sum()
    if decoding.top_p is not None and decoding.top_p < 1:
        order = np.argsort(chances, kind="stable")
        # As transformers: the least likely tokens whose sum stays within 1 - top_p go; the likeliest stays.
        unlikely = order[np.cumsum(chances[order]) <= 1 - decoding.top_p]
        unlikely = unlikely[unlikely != order[-1]]
        chances[unlikely] = 0
        chances /= chances.sum()
    return chances


def choose(scores: Row, decoding: Decoding, rng: np.random.Generator | None) -> int:
    """The next token of one row: the likeliest without a generator, otherwise a sample drawn with it."""
    if rng is None:
        return int(scores.argmax())
    chances = probabilities(scores, decoding)
    return int(rng.choice(chances.size, p=chances))
