"""Outliers that were planted without changing a model's function cost its integers nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.outliers import Kind, plant
from blip2_chat.checkpoint.inspect import Checkpoint, inspect
from blip2_chat.checkpoint.weights import Weights
from blip2_chat.cli import app
from blip2_chat.conversion.calibration import Calibration
from blip2_chat.conversion.convert import convert as convert_into
from blip2_chat.engines.onnx import load_onnx_engine
from blip2_chat.engines.onnx.convert import convert, plan
from blip2_chat.engines.onnx.reference import Sample, answer
from blip2_chat.errors import CheckpointError
from tests.support.checkpoints import make_checkpoint
from tests.support.variants import each_family

# Wide enough for channels to have company in a block.
WIDE: dict[str, dict[str, Any]] = {
    "opt": {"hidden_size": 192, "word_embed_proj_dim": 192, "ffn_dim": 384},
    "t5": {"d_model": 192, "d_kv": 16, "d_ff": 384, "num_heads": 4},
    "llama": {"hidden_size": 192, "intermediate_size": 384},
}
ANSWER = [5, 9, 7, 11]
# Read by those Q-Formers that read.
INSTRUCTION = (2, 9, 8, 7, 3)


@pytest.fixture(scope="module", params=each_family())
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    family = str(request.param)
    vision, text = {"hidden_size": 192, "intermediate_size": 384}, WIDE[family.removeprefix("instruct-")]
    folder = make_checkpoint(tmp_path_factory.mktemp(family), family, 3, vision=vision, text=text)
    return inspect(folder)


def pixels(checkpoint: Checkpoint) -> np.ndarray:
    size = checkpoint.config.vision.image_size
    return np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)


def outputs(checkpoint: Checkpoint, target: Path, precision: Any, **settings: Any) -> np.ndarray:
    """Logits after a prompt and after each token of an answer."""
    convert(checkpoint, target, precision, **settings)
    engine = load_onnx_engine(target)
    vectors = engine.query(engine.encode_image(pixels(checkpoint)), [INSTRUCTION])
    state, first = engine.prefill(vectors, [[2, 8, 6, 12]])
    rest = [engine.step(state, [token])[0] for token in ANSWER]
    engine.close()
    return np.array([first[0], *rest])


def error(made: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(((made - exact) ** 2).mean() / (exact**2).mean()))


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("kind", ["gains", "constants", "both"])
def test_planted_outliers_cost_nothing(
    official: Checkpoint, tmp_path: Path, kind: Kind, precision: str
) -> None:
    planted = inspect(plant(official, tmp_path / "planted", kind, 100, channels=4, seed=1))
    exact = outputs(official, tmp_path / "exact", "fp32")
    np.testing.assert_allclose(outputs(planted, tmp_path / "same", "fp32"), exact, rtol=0, atol=2e-3)
    before = error(outputs(official, tmp_path / "before", precision), exact)
    after = error(outputs(planted, tmp_path / "after", precision), exact)
    # Nearly the same integers: what float32 rounds otherwise may turn a few of them.
    assert after < 1.25 * before + 1e-4


def test_the_streamed_run_is_the_engine(official: Checkpoint, tmp_path: Path) -> None:
    exact = outputs(official, tmp_path / "exact", "fp32")
    planned = plan(official.config, "fp32", tied_head=official.tied_head)
    weights = Weights(official)

    def read(tensor: Any) -> Any:
        return tensor.make(*(weights.read(name) for name, _ in tensor.sources))

    sample = Sample(pixels(official), [2, 8, 6, 12], ANSWER, INSTRUCTION)
    _, logits = answer(planned.graphs, planned.embeddings, official.config, read, [sample, sample])
    for one in logits:
        np.testing.assert_allclose(one, exact, rtol=0, atol=1e-4)


def samples_about(checkpoint: Checkpoint) -> list[Sample]:
    """The tested prompt with other answers, and others with the tested answer."""
    chance = np.random.default_rng(1)
    words = [chance.integers(5, 60, 8).tolist() for _ in range(6)]
    return [Sample(pixels(checkpoint), [2, *some[:3]], some[3:], INSTRUCTION) for some in words]


def test_samples_bring_int4_nearer(official: Checkpoint, tmp_path: Path) -> None:
    exact = outputs(official, tmp_path / "exact", "fp32")
    plain = error(outputs(official, tmp_path / "plain", "int4"), exact)
    samples = samples_about(official)
    calibrated = error(outputs(official, tmp_path / "calibrated", "int4", samples=samples), exact)
    assert calibrated < 0.9 * plain


def test_samples_take_back_what_int8_shifts(official: Checkpoint, tmp_path: Path) -> None:
    if official.config.text.kind != "opt":
        pytest.skip("Flan-T5's and LLaMA's layers have no biases to take it back in")
    exact = outputs(official, tmp_path / "exact", "fp32")
    plain = error(outputs(official, tmp_path / "plain", "int8"), exact)
    samples = [Sample(pixels(official), [2, 8, 6, 12], ANSWER, INSTRUCTION)]
    assert error(outputs(official, tmp_path / "calibrated", "int8", samples=samples), exact) < plain


def test_the_same_samples_make_the_same_files(official: Checkpoint, tmp_path: Path) -> None:
    sample = Sample(pixels(official), [2, 8, 6, 12], ANSWER, INSTRUCTION)
    for name in ("one", "other"):
        convert(official, tmp_path / name, "int4", samples=[sample])
    for path in (tmp_path / "one").glob("*.data"):
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_a_folder_without_pictures_is_refused(official: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(CheckpointError):
        Calibration(pictures=tmp_path).samples(official)
    with pytest.raises(CheckpointError):
        Calibration(pictures=tmp_path / "nowhere").samples(official)


def test_a_conversion_that_cannot_be_calibrated_leaves_nothing(official: Checkpoint, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "broken.png").write_bytes(b"no picture")
    with pytest.raises(CheckpointError):
        convert_into(
            official, tmp_path / "out", "int8", name="it", calibration=Calibration(pictures=pictures)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_a_picture_without_an_ending_is_one(official: Checkpoint, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "photo", "PNG")
    assert Calibration(pictures=tmp_path).samples(official)


def test_fp32_rounds_nothing_to_calibrate(tmp_path: Path) -> None:
    arguments = [
        "convert",
        "demo",
        str(tmp_path / "out"),
        "--precision",
        "fp32",
        "--calibrate",
        str(tmp_path),
    ]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2 and "--calibrate" in refused.stderr
    assert not (tmp_path / "out").exists()
