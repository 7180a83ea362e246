"""Checkpoints that are not laid out as the official ones: what people and their trainers upload."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blip2_chat
from blip2_chat import CheckpointError
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.conversion.convert import convert, converted
from blip2_chat.engines.engine import Floats
from tests.support.checkpoints import change_json, make_checkpoint
from tests.support.extras import needs

Make = Callable[..., Path]
INDEX = "model.safetensors.index.json"
PROCESSORS = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "sharded", "opt", max_shard_size="100KB")


def logits(folder: Path, engine: str, **options: Any) -> Floats:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = blip2_chat.load(folder, engine=engine, precision="fp32", device="cpu", **options)
    pixels = np.random.default_rng(0).standard_normal((1, 3, 28, 28)).astype(np.float32)
    _, found = model.engine.prefill(model.engine.encode_image(pixels), [model.tokenizer.encode("a photo of")])
    model.close()
    return found


# Names of weights


def rename_shards(folder: Path) -> None:
    for path in folder.glob("model-*.safetensors"):
        path.rename(folder / f"pytorch_{path.name}")


def of_another_index(folder: Path) -> None:
    rename_shards(folder)
    raw = json.loads((folder / INDEX).read_text("utf-8"))
    raw["weight_map"] = {name: f"pytorch_{file}" for name, file in raw["weight_map"].items()}
    (folder / INDEX).unlink()
    (folder / "pytorch_model.safetensors.index.json").write_text(json.dumps(raw))


def of_the_same_index(folder: Path) -> None:
    of_another_index(folder)
    (folder / "pytorch_model.safetensors.index.json").rename(folder / INDEX)


def without_an_index(folder: Path) -> None:
    rename_shards(folder)
    (folder / INDEX).unlink()


def beside_the_index_of_pickles(folder: Path) -> None:
    raw = json.loads((folder / INDEX).read_text("utf-8"))
    raw["weight_map"] = dict.fromkeys(raw["weight_map"], "pytorch_model-00001-of-00002.bin")
    without_an_index(folder)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(raw))


@pytest.mark.parametrize("engine", ["onnx", pytest.param("torch", marks=needs("test-torch"))])
@pytest.mark.parametrize(
    "spread", [of_another_index, of_the_same_index, without_an_index, beside_the_index_of_pickles]
)
def test_shards_of_other_names(sharded: Path, spread: Callable[[Path], None], engine: str) -> None:
    expected = logits(sharded, "onnx")
    spread(sharded)
    assert len(inspect(sharded).weight_files) > 1
    np.testing.assert_allclose(logits(sharded, engine), expected, rtol=0, atol=1e-4)


def test_one_file_of_another_name(checkpoint: Make, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("opt"), tmp_path / "one"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.safetensors")
    assert inspect(folder).weight_files == ("pytorch_model.safetensors",)


def test_incomplete_shards_are_refused(sharded: Path) -> None:
    without_an_index(sharded)
    next(sharded.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="but neither"):
        inspect(sharded)


# Adapters


def add_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Salesforce/base"}))
    shutil.copy(next(folder.glob("*.safetensors")), folder / "adapter_model.safetensors")


@pytest.mark.parametrize("engine", ["onnx", pytest.param("torch", marks=needs("test-torch"))])
def test_an_adapter_beside_its_base_is_reported(checkpoint: Make, tmp_path: Path, engine: str) -> None:
    folder = Path(shutil.copytree(checkpoint("opt"), tmp_path / "adapted"))
    add_adapter(folder)
    with pytest.warns(
        UserWarning, match="also holds a LoRA adapter, which is not applied.*name the folder as the adapter"
    ):
        blip2_chat.load(folder, engine=engine, device="cpu").close()
    np.testing.assert_allclose(logits(folder, engine), logits(checkpoint("opt"), "onnx"), rtol=0, atol=1e-4)


def test_an_adapter_alone_is_refused(checkpoint: Make, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("opt"), tmp_path / "adapted"))
    add_adapter(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is a LoRA adapter of Salesforce/base, and not a whole model"):
        inspect(folder)


# Processors


@pytest.fixture
def bare(checkpoint: Make, tmp_path: Path) -> Path:
    """As most fine-tunes are uploaded: weights and config.json."""
    folder = Path(shutil.copytree(checkpoint("opt"), tmp_path / "bare"))
    for name in PROCESSORS:
        (folder / name).unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("engine", ["onnx", pytest.param("torch", marks=needs("test-torch"))])
def test_the_processor_of_another_checkpoint(checkpoint: Make, bare: Path, engine: str) -> None:
    with pytest.raises(CheckpointError, match=r"lacks tokenizer\.json") as caught:
        blip2_chat.load(bare, engine=engine, device="cpu")
    assert (caught.value.parameter, caught.value.path) == ("processor", bare)
    expected = logits(checkpoint("opt"), engine)
    np.testing.assert_array_equal(logits(bare, engine, processor=checkpoint("opt")), expected)


def test_conversions_with_other_processors_are_told_apart(
    checkpoint: Make, bare: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(checkpoint("opt"), tmp_path / "other"))
    change_json(other / "preprocessor_config.json", lambda raw: {**raw, "image_mean": [0.1, 0.2, 0.3]})
    made = [
        converted(inspect(bare, processor), "int8", name="bare").folder
        for processor in (checkpoint("opt"), other)
    ]
    assert made[0] != made[1]
    settings = (made[1] / "preprocessor_config.json").read_text("utf-8")
    assert json.loads(settings)["image_mean"] == [0.1, 0.2, 0.3]
    # A folder of one's own has all it needs.
    out = convert(inspect(bare, other), tmp_path / "out", "int8", name="bare")
    blip2_chat.load(out).close()
    with pytest.raises(CheckpointError, match="is converted, with the processor"):
        blip2_chat.load(out, processor=other)


def test_the_processor_of_another_family_is_refused(checkpoint: Make, bare: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks tokenizer\.json"):
        blip2_chat.load(bare, processor=bare)
    with pytest.raises(CheckpointError):
        blip2_chat.load(bare, processor=blip2_chat.checkpoint.inspect.find("demo"))


# Configurations of before transformers 4.47


@pytest.mark.parametrize("engine", ["onnx", pytest.param("torch", marks=needs("test-torch"))])
@pytest.mark.parametrize("family", ["opt", "t5"])
def test_configurations_without_a_picture_token(
    checkpoint: Make, tmp_path: Path, family: str, engine: str
) -> None:
    """transformers' own `generate` fails on them."""
    folder = Path(shutil.copytree(checkpoint(family), tmp_path / "old"))

    def old(raw: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in raw.items() if not key.startswith("image_token")}

    change_json(folder / "config.json", old)
    np.testing.assert_allclose(logits(folder, engine), logits(checkpoint(family), engine), rtol=0, atol=1e-6)
