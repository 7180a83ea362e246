"""Activations against transformers' own: each operator, and Flan-T5's whole model as its configuration has it."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Blip2ForConditionalGeneration
from transformers.activations import ACT2FN

from blip2_chat.checkpoint.config import ModelConfig, T5Config
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.engines.onnx import load_onnx_engine
from blip2_chat.engines.onnx.convert import convert
from blip2_chat.engines.onnx.graph.activations import UnknownActivation, activate
from blip2_chat.engines.onnx.graph.builder import Graph
from blip2_chat.engines.onnx.graph.tensors import FLOAT
from blip2_chat.engines.onnx.run.runtime import ort
from blip2_chat.errors import CheckpointError
from tests.support.checkpoints import change_json, make_checkpoint
from tests.support.transformers_checkpoints import randomise

# Parameters of their own, which T5 and OPT have no tensors for, or nobody's.
ABSENT = {"laplace", "prelu", "sqrtsoftplus", "xielu"}


@pytest.mark.parametrize("name", sorted(set(ACT2FN) - ABSENT))
def test_every_activation_is_transformers_own(name: str) -> None:
    g = Graph("one")
    g.output(activate(g, name, g.op("Identity", g.input("x", FLOAT, "N"))), "y", FLOAT, "N")
    session = ort.InferenceSession(g.model([]).SerializeToString())
    x = np.linspace(-12, 12, 4801, dtype=np.float32)
    expected = ACT2FN[name](torch.from_numpy(x)).numpy()
    # The exact GELU and its tanh form differ by up to 4.7e-4.
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5, atol=3e-6)


def test_unknown_activations_are_refused() -> None:
    with pytest.raises(UnknownActivation, match=r"activation 'laplace': use engine='torch'$"):
        activate(Graph("one"), "laplace", "x")


def enlarged(folder: Path, text: dict[str, Any]) -> Path:
    """A T5 checkpoint whose feed-forward layers decide, so that near-equal activations show in its logits.

    `text` goes into config.json as it is: transformers would write `dense_act_fn` into every one.
    """
    # One matrix or two, and transformers' own reading, follow from `text`.
    make_checkpoint(folder, "t5", text=text)
    change_json(
        folder / "config.json", lambda raw: {**raw, "text_config": stripped(raw["text_config"], text)}
    )
    model = Blip2ForConditionalGeneration.from_pretrained(folder)
    randomise(model, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".wi" in name or ".wo" in name:
                parameter.mul_(3)
    model.save_pretrained(folder / "again")
    (folder / "again" / "model.safetensors").replace(folder / "model.safetensors")
    return folder


def stripped(saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    keys = {"dense_act_fn", "is_gated_act"}
    return {name: value for name, value in saved.items() if name not in keys or name in given}


@pytest.mark.parametrize(
    "text",
    [
        {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"},  # the official ones
        {"feed_forward_proj": "gated-gelu"},
        {"feed_forward_proj": "gated-gelu", "dense_act_fn": "relu"},
        {"feed_forward_proj": "gated-silu"},
        {"feed_forward_proj": "gated-silu", "dense_act_fn": "gelu_new"},
        {"feed_forward_proj": "relu"},
        {"feed_forward_proj": "relu", "dense_act_fn": "gelu"},
        {"feed_forward_proj": "relu", "is_gated_act": True},
    ],
    ids=lambda text: ",".join(map(str, text.values())),
)
def test_t5_answers_with_the_activation_of_its_configuration(tmp_path: Path, text: dict[str, Any]) -> None:
    folder = enlarged(tmp_path / "t5", text)
    model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    read = ModelConfig.from_folder(folder).text
    assert isinstance(read, T5Config)
    assert (read.activation, read.is_gated) == (
        model.config.text_config.dense_act_fn,
        model.config.text_config.is_gated_act,
    )

    convert(inspect(folder), tmp_path / "onnx", "fp32")
    engine = load_onnx_engine(tmp_path / "onnx", threads=1)
    pixels = np.random.default_rng(0).standard_normal((1, 3, 28, 28)).astype(np.float32)
    prompt = [5, 6, 7, 8]
    _, logits = engine.prefill(engine.encode_image(pixels), [prompt])
    ids = [model.config.image_token_index] * model.config.num_query_tokens + prompt
    with torch.no_grad():
        expected = model(
            pixel_values=torch.from_numpy(pixels),
            input_ids=torch.tensor([ids]),
            decoder_input_ids=torch.tensor([[0]]),
        ).logits[0, -1]
    np.testing.assert_allclose(logits[0], expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["swi-glu", "gated-gated-gelu", "gated-gelu-new"])
def test_a_form_that_transformers_refuses_is_refused(name: str) -> None:
    raw = {"model_type": "blip-2", "text_config": {"model_type": "t5", "feed_forward_proj": name}}
    with pytest.raises(CheckpointError, match=f"feed_forward_proj is '{name}'"):
        ModelConfig.from_dict(raw)
