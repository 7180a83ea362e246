"""What every engine promises (blip2_chat.engines.engine), held against transformers for each engine and family.

After any sequence of operations on a state, the next logits are those that transformers computes from scratch.
What only one engine has is tested in tests/engines/onnx and tests/engines/torch.
"""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from blip2_chat.checkpoint.config import FAMILIES, ModelConfig
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.engines.onnx import load_onnx_engine
from blip2_chat.engines.onnx.convert import convert
from blip2_chat.engines.torch.engine import TorchEngine
from tests.support.engine_checks import (
    check_one_prompt,
    check_query_vectors,
    check_ragged_rows,
    check_reorder_as_beams_do,
)
from tests.support.reference import Case, Reference, Row


@cache
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture(
    scope="module", params=[f"{engine}-{family}" for engine in ("onnx", "torch") for family in FAMILIES]
)
def case(
    request: pytest.FixtureRequest,
    checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    engine, family = request.param.split("-", 1)
    folder = checkpoint(family, 5)
    theirs = reference(folder)
    if engine == "torch":
        return Case(theirs, TorchEngine(theirs.model, ModelConfig.from_folder(folder), "fp32", "cpu"))
    made = tmp_path_factory.mktemp("converted") / family
    convert(inspect(folder), made, "fp32")
    return Case(theirs, load_onnx_engine(made, threads=1))


def test_query_vectors_equal_the_reference(case: Case) -> None:
    check_query_vectors(case)


@pytest.mark.parametrize("length", [1, 2, 40, 300])
def test_one_prompt_and_its_answer(case: Case, length: int) -> None:
    check_one_prompt(case, length)


def test_a_long_answer_grows_the_cache(case: Case) -> None:
    prompt, answer = case.tokens(5), case.tokens(150)
    state, _ = case.engine.prefill(case.vectors[:1], [prompt])
    before = state.nbytes
    for token in answer:
        logits = case.engine.step(state, [token])
    case.check(logits, [(0, prompt, answer)])
    assert state.nbytes > before


def test_prompts_of_different_lengths_share_a_batch(case: Case) -> None:
    check_ragged_rows(case)


def test_reorder_as_beams_do(case: Case) -> None:
    check_reorder_as_beams_do(case)


def test_reorder_across_pictures(case: Case) -> None:
    prompts = [case.tokens(4), case.tokens(7)]
    state, _ = case.engine.prefill(case.vectors[:2], prompts)
    new = case.tokens(2)
    case.engine.step(state, new)
    state.reorder([1, 0])
    logits = case.engine.step(state, [8, 9])
    case.check(logits, [(1, prompts[1], [new[1], 8]), (0, prompts[0], [new[0], 9])])
    state.reorder([1, 1, 0])
    logits = case.engine.step(state, [4, 5, 6])
    left, right = (0, prompts[0], [new[0], 9]), (1, prompts[1], [new[1], 8])
    case.check(logits, [(i, p, [*a, t]) for (i, p, a), t in zip([left, left, right], [4, 5, 6], strict=True)])


def test_truncate_forgets_the_last_tokens(case: Case) -> None:
    prompt, answer = case.tokens(6), case.tokens(5)
    state, _ = case.engine.prefill(case.vectors[:1], [prompt])
    for token in answer:
        case.engine.step(state, [token])
    kept = 2 if case.reference.is_t5 else len(prompt) + 2
    state.truncate(kept)
    assert [len(row) for row in state.tokens] == [kept]
    case.check(case.engine.step(state, [7]), [(0, prompt, [*answer[:2], 7])])


def test_append_joins_states_of_different_lengths(case: Case) -> None:
    rows = []
    states = []
    for picture, (length, steps) in enumerate([(3, 4), (90, 1), (8, 0)]):
        prompt, answer = case.tokens(length), case.tokens(steps)
        state, _ = case.engine.prefill(case.vectors[picture : picture + 1], [prompt])
        for token in answer:
            case.engine.step(state, [token])
        states.append(state)
        rows.append((picture, prompt, answer))
    states[0].append(states[1])
    states[0].append(states[2])
    new = case.tokens(3)
    logits = case.engine.step(states[0], new)
    case.check(logits, [(i, p, [*a, token]) for (i, p, a), token in zip(rows, new, strict=True)])


def test_rows_join_and_leave_a_running_batch(case: Case) -> None:
    """Continuous batching: in and out in any order, with rows that outgrow the buffer in between."""
    rows: list[Row] = []
    running = None
    for turn in range(16):
        if turn in (0, 1, 2, 3, 5, 6, 9, 10, 11):
            picture, prompt = turn % 3, case.tokens(4 + 9 * (turn % 4))
            state, _ = case.engine.prefill(case.vectors[picture : picture + 1], [prompt])
            if running is None:
                running = state
            else:
                running.append(state)
            rows.append((picture, prompt, []))
        assert running is not None
        new = case.tokens(len(rows))
        logits = case.engine.step(running, new)
        rows = [(i, p, [*a, token]) for (i, p, a), token in zip(rows, new, strict=True)]
        case.check(logits, rows)
        staying = {4: [0, 2, 3], 6: [4, 0, 1, 2], 7: [1, 1, 3], 8: [2], 12: [0, 3], 13: [1, 0]}.get(turn)
        if staying:
            running.reorder(staying)
            rows = [rows[row] for row in staying]


def test_take_copies_rows_into_a_state_of_their_own(case: Case) -> None:
    prompts = [case.tokens(length) for length in (3, 90, 8)]
    state, _ = case.engine.prefill(case.vectors, prompts)
    case.engine.step(state, [5, 6, 7])
    taken = state.take([2, 0])
    rows = [(2, prompts[2], [7, 11]), (0, prompts[0], [5, 12])]
    case.check(case.engine.step(taken, [11, 12]), rows)
    logits = case.engine.step(state, [14, 15, 16])
    case.check(logits, [(i, prompt, [5 + i, 14 + i]) for i, prompt in enumerate(prompts)])
    assert state.take([0]).nbytes < state.nbytes / 2


def test_a_taken_state_and_its_source_do_not_affect_each_other(case: Case) -> None:
    prompts = [case.tokens(3), case.tokens(8)]
    state, _ = case.engine.prefill(case.vectors[:2], prompts)
    taken = state.take([1, 0, 1])
    logits = case.engine.step(taken, [4, 5, 6])
    case.check(logits, [(1, prompts[1], [4]), (0, prompts[0], [5]), (1, prompts[1], [6])])
    # The state taken from is as it was.
    case.check(case.engine.step(state, [7, 8]), [(0, prompts[0], [7]), (1, prompts[1], [8])])
    taken.reorder([2, 1, 0])
    case.check(case.engine.step(taken, [9, 9, 9])[:1], [(1, prompts[1], [6, 9])])


def test_a_follow_up_reuses_the_common_prefix(case: Case) -> None:
    shared = case.tokens(20)
    state, _ = case.engine.prefill(case.vectors[:1], [[*shared, 5, 6]])
    case.engine.step(state, [9])
    for follow_up in ([*shared, 7, 8, 9], [*shared, 7], [*shared, 7], shared[:3], [4], case.tokens(90)):
        state, logits = case.engine.prefill(case.vectors[:1], [follow_up], state)
        case.check(logits, [(0, follow_up, [])])
        case.check(case.engine.step(state, [11]), [(0, follow_up, [11])])


def test_a_batch_of_follow_ups_reuses_each_rows_prefix(case: Case) -> None:
    prompts = [case.tokens(5), case.tokens(30)]
    state, _ = case.engine.prefill(case.vectors[:2], prompts)
    case.engine.step(state, [5, 6])
    prompts = [[*prompts[0], 5, 8, 9, 10], [*prompts[1][:10], 7]]
    state, logits = case.engine.prefill(case.vectors[:2], prompts, state)
    case.check(logits, [(i, prompt, []) for i, prompt in enumerate(prompts)])
    case.check(case.engine.step(state, [4, 4]), [(i, prompt, [4]) for i, prompt in enumerate(prompts)])


def test_a_picture_in_a_batch_equals_the_picture_alone(case: Case) -> None:
    alone = case.engine.encode_image(case.pixels[1:2])
    np.testing.assert_array_equal(case.encoded[1:2], alone)
    # The torch engine's Q-Former reads instructions of different lengths side by side, with filling.
    tolerance = 0 if case.engine.name == "onnx" else 1e-5
    vectors = case.engine.query(alone, case.instructions[1:2])
    np.testing.assert_allclose(case.vectors[1:2], vectors, rtol=0, atol=tolerance)


def test_the_instruction_changes_what_the_picture_is_to_the_language_model(case: Case) -> None:
    if not case.engine.config.reads_instruction:
        pytest.skip("this Q-Former reads the picture alone")
    with pytest.raises(ValueError, match="1 pictures and 0 instructions"):
        case.engine.query(case.encoded[:1], [])
    other = case.engine.query(case.encoded[:1], case.instructions[1:2])
    assert np.abs(other - case.vectors[:1]).max() > 0.1
