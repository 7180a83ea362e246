"""How likely a model finds given answers, side by side in the token loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..checkpoint.tokenizer import Tokenizer
from ..engines.engine import Engine, Floats, State
from ..errors import GenerationError
from .loop import Batch, Member
from .rows import Choice, End, Task
from .settings import Decoding


def score_choices(
    engine: Engine,
    tokenizer: Tokenizer,
    query_vectors: Floats,
    prompt: list[int],
    choices: Sequence[Choice],
    state: State | None = None,
    at_once: int = 32,
) -> tuple[list[float], State | None]:
    """The natural-log probability of each choice after a prompt, and a state to go on from.

    `query_vectors` [1,Q,D]; `state`, of one row, is used up. The prompt is read once, however many choices there are;
    `at_once` of them are read side by side, and each takes a KV cache meanwhile.
    """
    left = state

    def keep(_: Member, after: State) -> None:
        nonlocal left
        left = after

    scores: list[float] = []
    for start in range(0, len(choices), at_once):
        task = Task(prompt, Decoding(), choices=tuple(choices[start : start + at_once]))
        batch = Batch(engine, tokenizer, keep)
        before, left = left, None
        (member,) = batch.join(query_vectors, [task], before)
        while batch.members:
            batch.choose()
            if member.failure is not None:
                raise member.failure
            batch.step()
        ends = [event for event in member.rows.events if isinstance(event, End)]
        scores += [end.result.score for end in sorted(ends, key=lambda end: end.index)]
    return scores, left


def checked_choices(answers: Sequence[str]) -> list[str]:
    """Answers to choose from, each on one line; `GenerationError` for what is no text, empty, or there twice."""
    if isinstance(answers, str) or not all(isinstance(one, str) for one in answers):
        raise GenerationError(f"the answers to choose from are {answers!r}; give a list of texts")
    cleaned = [" ".join(one.split()) for one in answers]
    if not cleaned or not all(cleaned):
        raise GenerationError("there is no answer to choose from, or an empty one: give a list of texts")
    if len(set(cleaned)) < len(cleaned):
        raise GenerationError("an answer to choose from is given twice; give each once")
    return cleaned


def shares(scores: Sequence[float]) -> list[float]:
    """Log-probabilities of alternatives -> their probabilities if it is one of them: a softmax, which sums to 1."""
    likelihoods = np.exp(np.asarray(scores, np.float64) - max(scores))
    return [float(one) for one in likelihoods / likelihoods.sum()]
