"""Checks of an engine against its reference that several tests make, each over other engines and shapes."""

from __future__ import annotations

import numpy as np

from tests.support.reference import TOLERANCE, Case


def check_query_vectors(case: Case) -> None:
    expected = case.reference.query_vectors(case.pixels, case.instructions)
    assert expected.std() > 0.3 and np.abs(expected[0] - expected[1]).max() > 0.1
    np.testing.assert_allclose(case.vectors, expected, rtol=0, atol=TOLERANCE)


def check_one_prompt(case: Case, length: int) -> None:
    prompt, answer = case.tokens(length), []
    state, logits = case.engine.prefill(case.vectors[:1], [prompt])
    case.check(logits, [(0, prompt, answer)])
    for _ in range(3):
        answer = answer + case.tokens(1)
        logits = case.engine.step(state, answer[-1:])
        case.check(logits, [(0, prompt, answer)])
    assert state.tokens == [answer if case.reference.is_t5 else prompt + answer]


def check_ragged_rows(case: Case) -> None:
    prompts = [case.tokens(n) for n in (3, 41, 1)]
    rows = [(i, prompt, []) for i, prompt in enumerate(prompts)]
    state, logits = case.engine.prefill(case.vectors, prompts)
    case.check(logits, rows)
    for _ in range(2):
        new = case.tokens(3)
        rows = [(i, prompt, [*answer, token]) for (i, prompt, answer), token in zip(rows, new, strict=True)]
        case.check(case.engine.step(state, new), rows)


def check_reorder_as_beams_do(case: Case) -> None:
    prompt = case.tokens(9)
    state, _ = case.engine.prefill(case.vectors[:1], [prompt])
    state.reorder([0, 0, 0])
    answers = [[], [], []]
    for parents in ([2, 1, 0], [0, 0, 2], [1, 1, 1], [2, 0, 1], [1, 0]):
        new = case.tokens(len(answers))
        logits = case.engine.step(state, new)
        answers = [[*answer, token] for answer, token in zip(answers, new, strict=True)]
        case.check(logits, [(0, prompt, answer) for answer in answers])
        state.reorder(parents)
        answers = [answers[parent] for parent in parents]
        assert state.tokens == [answer if case.reference.is_t5 else prompt + answer for answer in answers]
    case.check(
        case.engine.step(state, [5, 6]), [(0, prompt, [*a, t]) for a, t in zip(answers, [5, 6], strict=True)]
    )
