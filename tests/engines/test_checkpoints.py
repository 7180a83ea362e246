"""The numpy-made checkpoints of the tests are laid out as transformers writes its own."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import (
    Blip2ForConditionalGeneration,
    Blip2Processor,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
)

from blip2_chat.checkpoint.config import FAMILIES, ModelConfig
from tests.support.checkpoints import make_checkpoint
from tests.support.transformers_checkpoints import save_checkpoint

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": ("opt", {}),
    "opt without biases": (
        "opt",
        {"text": {"enable_bias": False, "layer_norm_elementwise_affine": False}, "tied_head": False},
    ),
    "t5": ("t5", {}),
    "t5 1.0": ("t5", {"text": {"feed_forward_proj": "relu", "tie_word_embeddings": True}, "tied_head": True}),
    "t5 of unequal depths": (
        "t5",
        {"text": {"num_layers": 1, "num_decoder_layers": 3}, "num_query_tokens": 1},
    ),
    "instruct t5": ("instruct-t5", {}),
    "instruct llama": ("instruct-llama", {}),
    "instruct llama with shared heads": (
        "instruct-llama",
        {"text": {"num_key_value_heads": 2, "attention_bias": True}, "num_query_tokens": 1},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_numpy_made_checkpoints_have_transformers_layout(tmp_path: Path, name: str) -> None:
    family, options = SHAPES[name]
    ours = make_checkpoint(tmp_path / "ours", family, **options)
    theirs = save_checkpoint(tmp_path / "theirs", family, **options)
    assert tensors(ours) == tensors(theirs)
    files = {str(path.relative_to(theirs)) for path in theirs.rglob("*") if path.is_file()}
    assert {str(path.relative_to(ours)) for path in ours.rglob("*") if path.is_file()} == files
    for file in files - {"model.safetensors", "generation_config.json"}:
        assert content(ours / file) == content(theirs / file), file


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_every_numpy_made_tensor(tmp_path: Path, family: str) -> None:
    folder = make_checkpoint(tmp_path, family, max_shard_size="40KB", dtype="bfloat16")
    is_instruct = ModelConfig.from_folder(folder).reads_instruction
    model = InstructBlipForConditionalGeneration if is_instruct else Blip2ForConditionalGeneration
    _, report = model.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    processor = (InstructBlipProcessor if is_instruct else Blip2Processor).from_pretrained(folder)
    assert processor.tokenizer("a photo")["input_ids"]
    if is_instruct:
        assert processor.qformer_tokenizer("a photo")["input_ids"]


def tensors(folder: Path) -> dict[str, tuple[str, list[int]]]:
    with safe_open(folder / "model.safetensors", "np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return {name: (one.get_dtype(), one.get_shape()) for name, one in slices.items()}


def content(path: Path) -> Any:
    found = json.loads(path.read_text(encoding="utf-8"))
    found.pop("transformers_version", None)
    return found
