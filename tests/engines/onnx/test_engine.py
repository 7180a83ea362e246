"""The ONNX engine over unusual shapes, against transformers, and what only this engine has.

What every engine promises is in tests/engines/test_contract.py.
"""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.engines.onnx import OnnxEngine, load_onnx_engine
from blip2_chat.engines.onnx.convert import convert
from blip2_chat.errors import CheckpointError, GenerationError
from tests.support.checkpoints import make_checkpoint
from tests.support.engine_checks import (
    check_one_prompt,
    check_query_vectors,
    check_ragged_rows,
    check_reorder_as_beams_do,
)
from tests.support.reference import Case, Reference
from tests.support.shapes import SHAPES
from tests.support.transformers_checkpoints import save_checkpoint

# As the official checkpoints are, at other sizes.
OFFICIAL = ("opt", "t5", "instruct t5", "instruct llama")


def converted_case(folder: Path, shape: str) -> Case:
    family, overrides = SHAPES[shape]
    save_checkpoint(folder / "official", family, seed=len(shape), **overrides)
    convert(inspect(folder / "official"), folder / "onnx", "fp32")
    engine = load_onnx_engine(folder / "onnx", threads=1)
    return Case(Reference(folder / "official"), engine, seed=len(shape))


@pytest.fixture(scope="module", params=[shape for shape in SHAPES if shape not in OFFICIAL])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return converted_case(tmp_path_factory.mktemp("case"), request.param)


@pytest.fixture(scope="module", params=OFFICIAL)
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return converted_case(tmp_path_factory.mktemp("case"), request.param)


def test_query_vectors(case: Case) -> None:
    check_query_vectors(case)


@pytest.mark.parametrize("length", [1, 2, 40, 300])
def test_one_prompt_and_its_answer(case: Case, length: int) -> None:
    check_one_prompt(case, length)


def test_ragged_rows(case: Case) -> None:
    check_ragged_rows(case)


def test_reorder_as_beams_do(case: Case) -> None:
    check_reorder_as_beams_do(case)


def test_a_follow_up_computes_its_new_tokens_only(official: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if official.reference.is_t5:
        pytest.skip("an encoder reads both ways; it reuses whole prompts only")
    prompt = official.tokens(50)
    state, _ = official.engine.prefill(official.vectors[:1], [prompt])
    language, computed = official.engine._language, []
    run = language._run
    monkeypatch.setattr(language, "_run", lambda s, x, *more: (computed.append(x.shape[1]), run(s, x, *more)))
    official.engine.prefill(official.vectors[:1], [[*prompt, 5, 6, 7]], state)
    assert computed == [3]


def test_the_cache_beyond_a_rows_length_is_never_read(official: Case) -> None:
    prompts = [official.tokens(3), official.tokens(12)]
    state, _ = official.engine.prefill(official.vectors[:2], prompts)
    for row, length in enumerate(state.cache.lengths):
        state.cache.data[:, row, :, length:] = np.nan
    logits = official.engine.step(state, [5, 6])
    official.check(logits, [(i, p, [t]) for i, (p, t) in enumerate(zip(prompts, [5, 6], strict=True))])


def test_refusals_name_what_is_wrong(official: Case) -> None:
    engine = official.engine
    with pytest.raises(ValueError, match="at least one token"):
        engine.prefill(official.vectors[:1], [[]])
    with pytest.raises(ValueError, match="1 pictures and 2 prompts"):
        engine.prefill(official.vectors[:1], [[5], [6]])
    with pytest.raises(ValueError, match=r"pixels are \[1, 3, 8, 8\]"):
        engine.encode_image(np.zeros((1, 3, 8, 8), np.float32))
    if engine.config.reads_instruction:
        with pytest.raises(ValueError, match="2 pictures and 1 instructions"):
            engine.query(official.encoded[:2], [[2, 3]])
    state, _ = engine.prefill(official.vectors[:2], [[5], [6]])
    with pytest.raises(ValueError, match="has 2 rows, not 1"):
        engine.step(state, [5])
    if not official.reference.is_t5:
        with pytest.raises(GenerationError, match="512 positions"):
            engine.prefill(official.vectors[:1], [official.tokens(508)])


def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    make_checkpoint(tmp_path / "c", "opt")
    convert(inspect(tmp_path / "c"), folder, "fp32")
    engine: OnnxEngine = load_onnx_engine(folder)
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        engine.encode_image(np.zeros((1, 3, 28, 28), np.float32))


@pytest.mark.parametrize(
    ("family", "text", "said"),
    [
        ("opt", {"do_layer_norm_before": False}, "as opt-350m.*use engine='torch'"),
        (
            "opt",
            {"do_layer_norm_before": False, "word_embed_proj_dim": 24},
            "as opt-350m; BLIP-2's have one width",
        ),
        ("opt", {"activation_function": "laplace"}, "activation 'laplace': use engine='torch'"),
        (
            "instruct-llama",
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}},
            "rotary positions .'linear'.*use engine='torch'",
        ),
    ],
)
def test_configurations_the_graphs_do_not_cover_are_refused(
    tmp_path: Path, family: str, text: dict[str, Any], said: str
) -> None:
    save_checkpoint(tmp_path / "c", family, text=text)
    with pytest.raises(CheckpointError, match=said):
        convert(inspect(tmp_path / "c"), tmp_path / "m", "fp32")
    assert not (tmp_path / "m").exists()
