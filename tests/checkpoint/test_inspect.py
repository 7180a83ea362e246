"""`inspect`: what it accepts, and converted folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blip2_chat.checkpoint.inspect import Checkpoint, inspect
from blip2_chat.system.small_files import MANIFEST
from tests.support.checkpoints import change_json
from tests.support.damage import HEAD, change_tensors, refusal
from tests.support.extras import needs
from tests.support.tensor_files import load_tensors

# inspect: what is accepted


@pytest.mark.parametrize("family", ["opt", "t5"])
@pytest.mark.parametrize("shard", ["5GB", "40KB"])
def test_a_complete_checkpoint(made: Callable[..., Path], family: str, shard: str) -> None:
    folder = made(family, max_shard_size=shard)
    seen = inspect(folder)
    assert seen.kind == "official" and seen.config.family == family
    on_disk = {path.name: load_tensors(path) for path in folder.glob("*.safetensors")}
    assert set(seen.weight_files) == set(on_disk) and (len(on_disk) > 1) == (shard == "40KB")
    assert {(name, info.file, info.shape) for name, info in seen.tensors.items()} == {
        (name, file, tuple(tensor.shape))
        for file, tensors in on_disk.items()
        for name, tensor in tensors.items()
    }
    assert {info.dtype for info in seen.tensors.values()} == {"F32"}
    assert seen.total_parameters == sum(t.size for tensors in on_disk.values() for t in tensors.values())


@needs("test-torch")
def test_parts_add_up_as_transformers_has_them(made: Callable[..., Path]) -> None:
    from transformers import Blip2ForConditionalGeneration

    folder = made("opt")
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    seen = inspect(folder)
    assert seen.parameters == {
        "vision": sum(p.numel() for p in model.vision_model.parameters()),
        "qformer": sum(p.numel() for p in model.qformer.parameters())
        + sum(p.numel() for p in model.language_projection.parameters())
        + model.query_tokens.numel(),
        "language_model": sum(p.numel() for p in model.language_model.parameters()),
    }


@pytest.mark.parametrize(("dtype", "stored"), [("float16", "F16"), ("bfloat16", "BF16")])
def test_half_precision_is_accepted(made: Callable[..., Path], dtype: str, stored: str) -> None:
    seen = inspect(made("t5", dtype=dtype))
    assert {info.dtype for info in seen.tensors.values()} == {stored}


def test_any_name_of_the_embeddings_will_do(made: Callable[..., Path], opt: Path, tmp_path: Path) -> None:
    before = inspect(opt)
    name = "language_model.model.decoder.embed_tokens.weight"
    change_tensors(opt, lambda tensors: tensors.update({HEAD: tensors.pop(name)}))
    assert inspect(opt).parameters == before.parameters
    change_tensors(opt, lambda tensors: tensors.update({name: tensors[HEAD]}))
    assert inspect(opt).parameters == before.parameters
    change_tensors(opt, lambda tensors: (tensors.pop(HEAD), tensors.pop(name)))
    assert f"lack {name}," in refusal(opt)

    t5 = Path(shutil.copytree(made("t5"), tmp_path / "t5"))
    change_tensors(
        t5,
        lambda tensors: tensors.update(
            {"language_model.decoder.embed_tokens.weight": tensors.pop("language_model.shared.weight")}
        ),
    )
    assert inspect(t5).parameters == inspect(made("t5")).parameters


def test_a_t5_head_is_tied_when_the_weights_leave_it_out(made: Callable[..., Path], tmp_path: Path) -> None:
    t5 = Path(shutil.copytree(made("t5"), tmp_path / "t5"))
    text = inspect(t5).config.text
    before = inspect(t5).total_parameters
    change_tensors(t5, lambda tensors: tensors.pop(HEAD))
    assert inspect(t5).total_parameters == before - text.vocab_size * text.hidden_size


def test_an_untied_opt_head_is_required(made: Callable[..., Path], tmp_path: Path) -> None:
    source = made("opt", tied_head=False, text={"tie_word_embeddings": False})
    folder = Path(shutil.copytree(source, tmp_path / "untied"))
    assert inspect(folder).total_parameters > inspect(made("opt")).total_parameters
    change_tensors(folder, lambda tensors: tensors.pop(HEAD))
    assert f"lack {HEAD}," in refusal(folder)


def test_tensors_of_other_uses_are_tolerated(opt: Path) -> None:
    before = inspect(opt)
    text_branch = {
        "qformer.embeddings.word_embeddings.weight": np.zeros((4, 3), np.float32),
        "qformer.encoder.layer.0.intermediate.dense.weight": np.zeros((4, 3), np.float32),
        "vision_model.embeddings.position_ids": np.zeros((1, 4), np.int64),
    }
    change_tensors(opt, lambda tensors: tensors.update(text_branch))
    assert inspect(opt).parameters == before.parameters
    assert text_branch.keys() <= inspect(opt).tensors.keys()


def test_tensors_of_another_model_are_named(opt: Path) -> None:
    change_tensors(
        opt, lambda tensors: tensors.update({"visual_encoder.stem.weight": np.zeros(2, np.float32)})
    )
    message = refusal(opt)
    assert (
        f"{opt / 'model.safetensors'} holds visual_encoder.stem.weight, which no model of this kind has"
        in message
    )


def test_picture_settings_of_transformers_5(opt: Path) -> None:
    (opt / "preprocessor_config.json").unlink()
    assert "image_processor" in json.loads((opt / "processor_config.json").read_text("utf-8"))
    assert isinstance(inspect(opt), Checkpoint)
    change_json(opt / "processor_config.json", lambda raw: {"processor_class": raw["processor_class"]})
    assert "lacks preprocessor_config.json" in refusal(opt)


# converted folders


@pytest.fixture
def converted(opt: Path) -> Path:
    (opt / "model.safetensors").unlink()
    (opt / "vision.onnx").write_bytes(b"graph")
    (opt / MANIFEST).write_text(json.dumps({"format": 1, "sizes": {"vision.onnx": 5}}), "utf-8")
    return opt


def test_a_converted_folder(converted: Path, made: Callable[..., Path]) -> None:
    seen = inspect(converted)
    assert seen.kind == "converted" and seen.tensors == {} and seen.weight_files == ()
    assert seen.parameters == inspect(made("opt")).parameters


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vision.onnx": 5, "text.onnx": 5}, "lacks text.onnx"),
        ({"vision.onnx": 6}, "vision.onnx is not 6 bytes long"),
        ({"../opt/vision.onnx": 5}, "refused"),
        ({}, "lists no files"),
        ([], "lists no files"),
        (None, "lists no files"),
        ("vision.onnx", "lists no files"),
    ],
)
def test_a_broken_conversion(converted: Path, sizes: object, message: str) -> None:
    change_json(converted / MANIFEST, lambda raw: {"sizes": sizes})
    assert message in refusal(converted)


def test_a_manifest_that_is_not_json(converted: Path) -> None:
    (converted / MANIFEST).write_text("{", "utf-8")
    assert "cannot be read as JSON" in refusal(converted)
