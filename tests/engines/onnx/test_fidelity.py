"""How closely a conversion follows fp32 is measured layer by layer, and is what the whole models give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blip2_chat
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.conversion.convert import convert
from blip2_chat.engines.onnx.fidelity import Comparison, Outputs, converted_outputs, reference_outputs
from blip2_chat.engines.onnx.manifest import MANIFEST, Fidelity, Manifest
from blip2_chat.engines.onnx.reference import Sample
from blip2_chat.engines.onnx.run.session import load_onnx_engine
from blip2_chat.errors import CheckpointError
from tests.support.extras import needs


@pytest.fixture(scope="module", params=["opt", "t5"])
def folder(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Path:
    return checkpoint(request.param, 3)


def samples_of(count: int = 2) -> list[Sample]:
    chance = np.random.default_rng(5)
    pixels = chance.standard_normal((count, 1, 3, 28, 28)).astype(np.float32)
    return [
        Sample(pixels[at], [2, 7 + at, 9, 11][: 3 + at], list(range(12, 12 + 3 * at))) for at in range(count)
    ]


def whole(engine: Any, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Query vectors and logits along the answer, of an engine that holds all of the model."""
    vectors = engine.encode_image(sample.pixels)
    state, logits = engine.prefill(vectors, [sample.prompt])
    rows = [logits[0]]
    for token in sample.answer:
        rows.append(engine.step(state, [token])[0].copy())
    return vectors, np.stack(rows)


@needs("test-torch")
def test_the_reference_is_transformers_float32(folder: Path) -> None:
    engine = blip2_chat.load(folder, engine="torch", precision="fp32").engine
    samples = samples_of()
    found = reference_outputs(inspect(folder), samples)
    for at, sample in enumerate(samples):
        vectors, logits = whole(engine, sample)
        np.testing.assert_allclose(found.vectors[at], vectors, atol=2e-5)
        np.testing.assert_allclose(found.logits[at], logits, atol=2e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_conversion_run_in_pieces_is_the_engine_that_runs_it_whole(
    folder: Path, precision: str, tmp_path: Path
) -> None:
    # Blocks: u8s8 has one scale for all rows that are read together, which are others in pieces.
    block_size = None if precision == "fp32" else 32
    made = convert(
        inspect(folder), tmp_path / "made", precision, name="x", block_size=block_size, check=False
    )
    samples = samples_of()
    told: list[tuple[int, int]] = []
    found = converted_outputs(made, samples, lambda *progress: told.append(progress))
    engine = load_onnx_engine(made)
    for at, sample in enumerate(samples):
        vectors, logits = whole(engine, sample)
        np.testing.assert_allclose(found.vectors[at], vectors, atol=1e-5)
        np.testing.assert_allclose(found.logits[at], logits, atol=1e-4)
    assert told and all(done <= total for done, total in told)


def test_the_figures_are_those_of_their_definitions() -> None:
    chance = np.random.default_rng(1)
    sample, other = samples_of()
    exact = Outputs(
        [np.ones((1, 5, 4), np.float32)] * 2, [chance.standard_normal((3, 7)).astype(np.float32)] * 2
    )
    given = Outputs(
        [np.full((1, 5, 4), 1.1, np.float32)] * 2, [exact.logits[0].copy(), exact.logits[0].copy()]
    )
    given.logits[1][2] = -given.logits[1][2]
    comparison = Comparison()
    agreeing = comparison.add([sample, other], exact, given)
    assert [list(one) for one in agreeing] == [[True] * 3, [True, True, False]]
    p, q = (np.exp(one) / np.exp(one).sum() for one in (exact.logits[1][2], given.logits[1][2]))
    result = comparison.result()
    assert result.agreement == pytest.approx(5 / 6)
    assert result.divergence == pytest.approx(float((p * np.log(p / q)).sum()) / 6, rel=1e-5)
    assert result.vector_error == pytest.approx(0.1, rel=1e-5)
    assert (result.tokens, result.pictures) == (6, 2)


def test_a_conversion_keeps_what_was_measured(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    made = convert(
        inspect(folder), tmp_path / "made", "int4", name="x", on_progress=lambda what, *_: told.append(what)
    )
    fidelity = Manifest.from_folder(made).fidelity
    assert fidelity is not None and fidelity.pictures == 2 and fidelity.tokens > 20
    assert 0 < fidelity.agreement <= 1 and 0 < fidelity.vector_error < 1 and fidelity.divergence > 0
    assert "comparing int4 with fp32" in told
    blip2_chat.load(made)
    exact = convert(inspect(folder), tmp_path / "exact", "fp32", name="x")
    assert Manifest.from_folder(exact).fidelity is None
    unchecked = convert(inspect(folder), tmp_path / "unchecked", "int4", name="x", check=False)
    assert "fidelity" not in json.loads((unchecked / MANIFEST).read_text())
    blip2_chat.load(unchecked)

    for wrong in (
        3,
        {"agreement": 1},
        {**vars(fidelity), "more": 1},
        {**vars(fidelity), "agreement": 1.5},
        {**vars(fidelity), "agreement": "1"},
        {**vars(fidelity), "divergence": float("nan")},
        {**vars(fidelity), "vector_error": -1},
        {**vars(fidelity), "tokens": 1.5},
        {**vars(fidelity), "pictures": True},
    ):
        raw = json.loads((made / MANIFEST).read_text())
        (made / MANIFEST).write_text(json.dumps({**raw, "fidelity": wrong}))
        with pytest.raises(CheckpointError, match="is damaged"):
            Manifest.from_folder(made)
        (made / MANIFEST).write_text(json.dumps(raw))
    assert Manifest.from_folder(made).fidelity == Fidelity(**vars(fidelity))
