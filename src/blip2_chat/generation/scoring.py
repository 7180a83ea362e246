"""How likely a model finds given answers: teacher forcing, side by side, after one reading of the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..engines.engine import Engine, Floats, State
from .sampling import log_softmax

# Rows at once: each takes a KV cache.
_ROWS = 32


def answer_logprobs(
    engine: Engine, prompt: State, first: Floats, answers: Sequence[Sequence[int]]
) -> list[list[float]]:
    """The natural-log probability of each token of each answer, given everything before it.

    `prompt` and `first` are what `engine.prefill` gave for one prompt: a state of one row, which stays as it is, and
    logits [1,V]. `answers` are token ids, at least one each.
    """
    logprobs: list[list[float]] = []
    for start in range(0, len(answers), _ROWS):
        group = answers[start : start + _ROWS]
        state = prompt.take([0])
        state.reorder([0] * len(group))
        logprobs += _forced(engine, state, np.repeat(first, len(group), axis=0), group)
    return logprobs


def _forced(
    engine: Engine, state: State, logits: Floats, answers: Sequence[Sequence[int]]
) -> list[list[float]]:
    logprobs: list[list[float]] = [[] for _ in answers]
    rows = list(range(len(answers)))  # the answers that the state's rows belong to
    for place in range(max(map(len, answers))):
        for row, answer in enumerate(rows):
            logprobs[answer].append(float(log_softmax(logits[row])[answers[answer][place]]))
        longer = [row for row, answer in enumerate(rows) if place + 1 < len(answers[answer])]
        if not longer:
            break
        if len(longer) < len(rows):
            state.reorder(longer)
            rows = [rows[row] for row in longer]
        logits = engine.step(state, [answers[answer][place] for answer in rows])
    return logprobs


def shares(scores: Sequence[float]) -> list[float]:
    """Log-probabilities of alternatives -> their probabilities if it is one of them: a softmax, which sums to 1."""
    likelihoods = np.exp(np.asarray(scores, np.float64) - max(scores))
    return [float(one) for one in likelihoods / likelihoods.sum()]
