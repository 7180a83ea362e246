"""The expected tensors against transformers' own modules, built on the meta device: nothing is allocated."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

import random
from typing import Any

import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)

from blip2_chat.checkpoint.catalogue import KNOWN, KnownCheckpoint, suggest
from blip2_chat.checkpoint.config import FAMILIES, LlamaConfig, ModelConfig, OptConfig, T5Config
from blip2_chat.checkpoint.tensor_names import aliases, count_parameters, expected_tensors, part_of
from blip2_chat.errors import CheckpointError


def reference(raw: dict[str, Any]) -> tuple[dict[str, tuple[int, ...]], torch.nn.Module]:
    """Names and shapes as transformers has them."""
    with torch.device("meta"):
        if raw.get("model_type") == "instructblip":
            model = InstructBlipForConditionalGeneration(InstructBlipConfig(**raw))
        else:
            model = Blip2ForConditionalGeneration(Blip2Config(**raw))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, model


def random_raw(family: str, seed: int) -> dict[str, Any]:
    """A tiny `config.json` of odd numbers and rare switches."""
    draw = random.Random(seed)
    heads, text_heads = draw.randint(1, 3), draw.randint(1, 3)
    qformer_heads = draw.randint(1, 3)
    raw: dict[str, Any] = {
        "model_type": "instructblip" if family.startswith("instruct-") else "blip-2",
        "num_query_tokens": draw.randint(1, 9),
        "vision_config": {
            "hidden_size": heads * draw.randint(2, 7),
            "num_attention_heads": heads,
            "intermediate_size": draw.randint(5, 30),
            "num_hidden_layers": draw.randint(1, 3),
            "patch_size": draw.randint(3, 7),
            "image_size": draw.randint(8, 40),
            "qkv_bias": draw.random() < 0.5,
        },
        "qformer_config": {
            "hidden_size": qformer_heads * draw.randint(2, 7),
            "num_attention_heads": qformer_heads,
            "intermediate_size": draw.randint(5, 30),
            "num_hidden_layers": draw.randint(1, 5),
            "cross_attention_frequency": draw.randint(1, 3),
        },
    }
    if family == "opt":
        width = text_heads * draw.randint(2, 7)
        raw["text_config"] = {
            "model_type": "opt",
            "vocab_size": draw.randint(20, 50),
            "hidden_size": width,
            "num_attention_heads": text_heads,
            "num_hidden_layers": draw.randint(1, 3),
            "ffn_dim": draw.randint(5, 30),
            "max_position_embeddings": draw.randint(10, 40),
            "word_embed_proj_dim": draw.choice([None, width, width + 3]),
            "enable_bias": draw.random() < 0.5,
            "layer_norm_elementwise_affine": draw.random() < 0.7,
            "do_layer_norm_before": draw.random() < 0.7,
            "_remove_final_layer_norm": draw.random() < 0.3,
            "tie_word_embeddings": draw.random() < 0.7,
        }
    elif family == "instruct-llama":
        shared = draw.randint(1, 3)
        raw["text_config"] = {
            "model_type": "llama",
            "vocab_size": draw.randint(20, 50),
            "hidden_size": text_heads * shared * draw.randint(2, 7),
            "num_attention_heads": text_heads * shared,
            "num_key_value_heads": shared,
            "head_dim": 2 * draw.randint(1, 5),
            "num_hidden_layers": draw.randint(1, 3),
            "intermediate_size": draw.randint(5, 30),
            "attention_bias": draw.random() < 0.5,
            "mlp_bias": draw.random() < 0.5,
            "tie_word_embeddings": draw.random() < 0.3,
        }
    else:
        raw["text_config"] = {
            "model_type": "t5",
            "vocab_size": draw.randint(20, 50),
            "d_model": draw.randint(5, 20),
            "d_kv": draw.randint(2, 7),
            "d_ff": draw.randint(5, 30),
            "num_heads": text_heads,
            "num_layers": draw.randint(1, 3),
            "num_decoder_layers": draw.choice([None, 1, 2, 4]),
            "relative_attention_num_buckets": draw.randint(4, 9),
            "feed_forward_proj": draw.choice(["relu", "gated-gelu", "gated-silu"]),
            **draw.choice([{}, {"dense_act_fn": "gelu"}, {"is_gated_act": True}, {"is_gated_act": False}]),
        }
    return raw


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(12))
def test_names_and_shapes_are_transformers_own(family: str, seed: int) -> None:
    raw = random_raw(family, seed)
    shapes, model = reference(raw)
    config = ModelConfig.from_dict(raw)
    assert expected_tensors(config) == shapes
    # `parameters()` gives a shared tensor once; transformers 5 ties every T5 head.
    tied = True if config.text.kind == "t5" else config.text.tie_word_embeddings  # type: ignore[union-attr]
    assert sum(count_parameters(config, tied).values()) == sum(p.numel() for p in model.parameters())


def test_a_text_branch_only_adds_to_what_is_expected() -> None:
    raw = random_raw("opt", 3)
    with_texts = {**raw["qformer_config"], "use_qformer_text_input": True}
    shapes, _ = reference({**raw, "qformer_config": with_texts})
    expected = expected_tensors(ModelConfig.from_dict(raw))
    assert expected.items() < shapes.items()
    assert all("qformer.encoder.layer." in name for name in shapes.keys() - expected.keys())


def test_aliases_are_the_names_transformers_ties() -> None:
    for family in FAMILIES:
        raw = random_raw(family, 1)
        raw["text_config"]["tie_word_embeddings"] = True
        _, model = reference(raw)
        kept: dict[int, set[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            kept.setdefault(id(parameter), set()).add(name)
        shared = [names for names in kept.values() if len(names) > 1]
        assert shared == [set(aliases(ModelConfig.from_dict(raw)))]


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_true_size_checkpoints(known: KnownCheckpoint) -> None:
    text = known.config.text
    if isinstance(text, OptConfig):
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "ffn_dim", "num_attention_heads")
    elif isinstance(text, LlamaConfig):
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
    else:
        names = ("vocab_size", "d_model", "d_ff", "num_layers", "num_heads")
        names += ("feed_forward_proj", "dense_act_fn")
        # As the hub's files and the authors' training code have it.
        assert text.activation == "gelu"
    raw: dict[str, Any] = {
        "vision_config": {"image_size": known.image_size},
        "text_config": {"model_type": text.kind, **{name: getattr(text, name) for name in names}},
    }
    if isinstance(text, T5Config):
        raw["text_config"]["tie_word_embeddings"] = False
    if known.config.reads_instruction:
        raw |= {"model_type": "instructblip", "qformer_config": {"vocab_size": 30523}}
    shapes, _ = reference(raw)
    assert expected_tensors(known.config) == shapes


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("blip2-opt-2.7b", 3.74),
        ("blip2-opt-6.7b", 7.75),
        ("blip2-flan-t5-xl", 3.94),
        ("blip2-flan-t5-xxl", 12.2),
        ("instructblip-vicuna-7b", 7.91),
    ],
)
def test_parameter_counts_as_published(name: str, billions: float) -> None:
    (known,) = [known for known in KNOWN if known.name == f"Salesforce/{name}"]
    assert known.parameters / 1e9 == pytest.approx(billions, abs=0.05 if billions > 10 else 0.005)
    assert known.image_size == 224


def test_known_configs_read_as_the_hub_writes_them() -> None:
    """What opt-2.7b's own config.json says, defaults left out as there."""
    raw = {
        "model_type": "blip-2",
        "image_token_index": 50265,
        "text_config": {
            "model_type": "opt",
            "vocab_size": 50304,
            "hidden_size": 2560,
            "ffn_dim": 10240,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "word_embed_proj_dim": 2560,
            "eos_token_id": 50118,
        },
    }
    assert ModelConfig.from_dict(raw) == KNOWN[0].config


def test_every_tensor_belongs_to_a_part() -> None:
    names = ["vision_model.x", "query_tokens", "qformer.x", "language_projection.bias", "language_model.x"]
    assert [part_of(name) for name in names] == ["vision", "qformer", "qformer", "qformer", "language_model"]


@pytest.mark.parametrize(
    ("part", "settings", "said"),
    [
        ("text_config", {"num_hidden_layers": "2"}, "num_hidden_layers is '2'"),
        ("text_config", {"model_type": "t5", "feed_forward_proj": 2.0}, "feed_forward_proj is 2.0"),
        ("vision_config", {"patch_size": 0}, "patch_size is 0"),
        ("vision_config", {"qkv_bias": 1}, "qkv_bias is 1"),
        ("qformer_config", {"cross_attention_frequency": 0}, "cross_attention_frequency is 0"),
        (
            "qformer_config",
            {"num_attention_heads": 5},
            "qformer hidden_size 768 is not a multiple of its heads",
        ),
    ],
)
def test_a_config_that_makes_no_model_is_one_line(part: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        ModelConfig.from_dict({"model_type": "blip-2", part: settings})


def test_a_config_with_absurd_layers_is_refused_without_listing_them() -> None:
    raw = {"model_type": "blip-2", "text_config": {"model_type": "t5", "num_layers": 10**12}}
    with pytest.raises(CheckpointError, match="1000000000000 layers"):
        expected_tensors(ModelConfig.from_dict(raw))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("blip2-opt-2.7b", "did you mean Salesforce/blip2-opt-2.7b?"),
        ("salesforce/BLIP2-opt-2.7b", "did you mean Salesforce/blip2-opt-2.7b?"),
        ("blip2_flan_t5_xxl", "Salesforce/blip2-flan-t5-xxl"),
        ("opt-6.7b", "Salesforce/blip2-opt-6.7b"),
        ("Demo", "did you mean demo?"),
        ("gemma", "known names are demo, Salesforce/blip2-opt-2.7b,"),
    ],
)
def test_suggestions(typed: str, meant: str) -> None:
    assert meant in suggest(typed)
