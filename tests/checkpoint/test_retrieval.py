"""Retrieval checkpoints: shapes against transformers', what they need, and that they are told from chat models."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors import safe_open
from transformers import Blip2Config, Blip2ForImageTextRetrieval

from blip2_chat.checkpoint import requirements
from blip2_chat.checkpoint.catalogue import KNOWN_RETRIEVERS, KnownCheckpoint, suggest
from blip2_chat.checkpoint.inspect import inspect, inspect_any, inspect_retriever
from blip2_chat.checkpoint.requirements import COSTS, needed, require_fit
from blip2_chat.checkpoint.retrieval_config import RetrievalConfig
from blip2_chat.checkpoint.tensor_names import expected_tensors
from blip2_chat.engines.onnx import convert
from blip2_chat.errors import CheckpointError, NotEnoughMemoryError
from tests.support.checkpoints import change_json, make_checkpoint, make_retriever
from tests.support.transformers_checkpoints import save_retriever


def transformers_shapes(raw: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Blip2ForImageTextRetrieval(Blip2Config(**raw))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("known", KNOWN_RETRIEVERS, ids=lambda known: known.name)
def test_true_size_checkpoints(known: KnownCheckpoint[RetrievalConfig]) -> None:
    """The official config.json, defaults left out as there."""
    raw: dict[str, Any] = {
        "architectures": ["Blip2ForImageTextRetrieval"],
        "model_type": "blip-2",
        "image_text_hidden_size": 256,
        "qformer_config": {"use_qformer_text_input": True, "vocab_size": 30523},
        "vision_config": {"image_size": known.image_size} if known.image_size != 224 else {},
    }
    assert RetrievalConfig.from_dict(raw) == known.config
    assert expected_tensors(known.config) == transformers_shapes(raw)


def test_parameters_as_published() -> None:
    """transformers' count of Salesforce/blip2-itm-vit-g."""
    assert KNOWN_RETRIEVERS[0].parameters == 1_172_032_258


def test_numpy_made_checkpoints_have_transformers_layout(tmp_path: Path) -> None:
    ours, theirs = make_retriever(tmp_path / "ours"), save_retriever(tmp_path / "theirs")
    assert stored(ours) == stored(theirs)
    # And what transformers saves of the configuration is read as the same shape.
    assert inspect_retriever(ours).config == inspect_retriever(theirs).config


def stored(folder: Path) -> dict[str, list[int]]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a dict


@pytest.mark.parametrize("precision", get_args(convert.Precision))
def test_the_onnx_weights_are_those_the_converter_writes(precision: convert.Precision) -> None:
    """All but what stays on disk; ONNX Runtime packs a sum beside every block's scale."""
    config = KNOWN_RETRIEVERS[0].config
    plan = convert.plan(config, precision)
    written = [one for graph in plan.graphs for recipe in graph.recipes for one in recipe.outputs]
    held = sum(one.nbytes for one in written if not one.mapped)
    held += 2 * sum(one.nbytes for one in written if one.mapped and one.name.endswith(".scale"))
    assert requirements._weights(config, precision, COSTS["onnx"]) == pytest.approx(held, rel=0.005)


def test_what_does_not_fit_is_said_with_another_retrieval_model_or_precision() -> None:
    config = KNOWN_RETRIEVERS[0].config
    with pytest.raises(NotEnoughMemoryError) as caught:
        require_fit(config, "fp32", "onnx", available=needed(config, "int8", "onnx"), name="itm")
    assert caught.value.suggestion is not None
    assert (caught.value.suggestion.name, caught.value.suggestion.precision) == ("itm", "int8")
    with pytest.raises(NotEnoughMemoryError) as caught:
        require_fit(config, "fp32", "onnx", available=10**8, name="itm")
    assert caught.value.suggestion is None


def test_names_are_suggested() -> None:
    assert suggest("blip2-itm-vitg").startswith("did you mean Salesforce/blip2-itm-vit-g or ")


def test_each_kind_is_told_from_the_other(tmp_path: Path) -> None:
    retriever, chat = make_retriever(tmp_path / "retriever"), make_checkpoint(tmp_path / "chat")
    assert inspect_any(retriever).config == inspect_retriever(retriever).config
    assert inspect_any(chat).config == inspect(chat).config
    with pytest.raises(CheckpointError, match=r"matches pictures with texts \(blip2-chat match") as caught:
        inspect(retriever)
    assert "Salesforce/blip2-opt-2.7b" in str(caught.value)
    with pytest.raises(CheckpointError, match="does not match pictures with texts") as caught:
        inspect_retriever(chat)
    assert "Salesforce/blip2-itm-vit-g" in str(caught.value)


def test_a_vocabulary_is_enough_and_without_one_it_is_named(tmp_path: Path) -> None:
    folder = make_retriever(tmp_path)
    inspect_retriever(folder)
    (folder / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks vocab\.txt; copy it .*processor='Salesforce/blip2-itm"):
        inspect_retriever(folder)


@pytest.mark.parametrize("value", [0, -1, "32", 10**9, 2.5])
@pytest.mark.parametrize("name", ["num_query_tokens", "image_text_hidden_size"])
def test_sizes_that_cannot_be_are_one_line(tmp_path: Path, name: str, value: object) -> None:
    folder = make_retriever(tmp_path)
    change_json(folder / "config.json", lambda raw: {**raw, name: value})
    with pytest.raises(CheckpointError, match=f"{name} is {value!r}"):
        inspect_retriever(folder)
    assert json.loads((folder / "config.json").read_text("utf-8"))[name] == value
