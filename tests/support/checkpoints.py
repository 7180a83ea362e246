"""Random checkpoints in the official layout, small enough for a test, written with numpy and safetensors alone.

`make_checkpoint` writes the files that a BLIP-2 or InstructBLIP repository on the hub has: configuration, weights
under the official names, tokenizers, picture settings. tests/engines/test_checkpoints.py holds them against what
transformers itself writes (tests/support/transformers_checkpoints.py), so that the tests of the core need neither
torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from tokenizers import Tokenizer

from tests.support.checkpoint_shapes import (
    Shape,
    llama_shapes,
    opt_shapes,
    qformer_shapes,
    retriever_shapes,
    t5_shapes,
    vision_shapes,
)
from tests.support.tensor_files import save_tensors
from tests.support.tokenizers import TOKENIZERS, qformer_tokenizer, retriever_vocabulary, special_tokens

IMAGE_MEAN = [0.48145466, 0.4578275, 0.40821073]
IMAGE_STD = [0.26862954, 0.26130258, 0.27577711]

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
QFORMER = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "cross_attention_frequency": 2,
    "vocab_size": 60,
}
TEXT: dict[str, dict[str, Any]] = {
    "opt": {
        "model_type": "opt",
        "hidden_size": 48,
        "word_embed_proj_dim": 48,
        "num_hidden_layers": 2,
        "ffn_dim": 96,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": 1,
        "bos_token_id": 2,
    },
    "t5": {
        "model_type": "t5",
        "d_model": 40,
        "d_kv": 8,
        "d_ff": 80,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    "llama": {
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        # Vicuna's configuration has these, which are not its tokenizer's.
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
}

# What transformers writes beside the above.
_VISION_DEFAULTS = {
    "attention_dropout": 0.0,
    "hidden_act": "gelu",
    "initializer_range": 1e-10,
    "layer_norm_eps": 1e-06,
    "model_type": "blip_2_vision_model",
    "qkv_bias": True,
}
_QFORMER_DEFAULTS = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "blip_2_qformer",
    "pad_token_id": 0,
    "use_qformer_text_input": False,
}
_TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    "opt": {
        "_remove_final_layer_norm": False,
        "activation_function": "relu",
        "attention_dropout": 0.0,
        "do_layer_norm_before": True,
        "dropout": 0.1,
        "enable_bias": True,
        "init_std": 0.02,
        "layer_norm_elementwise_affine": True,
        "layerdrop": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
    },
    "t5": {
        "classifier_dropout": 0.0,
        "dropout_rate": 0.1,
        "initializer_factor": 1.0,
        "is_decoder": False,
        "layer_norm_epsilon": 1e-06,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "use_cache": True,
    },
    "llama": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False,
        "use_cache": True,
    },
}


def make_checkpoint(
    folder: Path | str,
    family: str = "opt",
    seed: int = 0,
    *,
    vision: dict[str, Any] | None = None,
    qformer: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    num_query_tokens: int = 5,
    tied_head: bool | None = None,
    std: float = 0.05,
    dtype: str = "float32",
    max_shard_size: str = "5GB",
) -> Path:
    """Writes a random checkpoint of `family` ("opt", "t5", "instruct-t5", "instruct-llama") into `folder` and returns
    the folder.

    `vision`, `qformer` and `text` are laid over the small defaults above, key by key. `tied_head` is by
    default what the official checkpoints have (OPT: the head is the embedding; Flan-T5: a matrix of its own).
    `dtype` ("float32", "float16", "bfloat16") is what the safetensors hold; a small `max_shard_size` ("40KB")
    makes shards and an index.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind, is_instruct = family.removeprefix("instruct-"), family.startswith("instruct-")
    tokenizer = TOKENIZERS[kind]()
    vision = {**_VISION_DEFAULTS, **VISION, **(vision or {})}
    qformer = {
        **_QFORMER_DEFAULTS,
        **QFORMER,
        **(qformer or {}),
        "encoder_hidden_size": vision["hidden_size"],
    }
    text = {**_TEXT_DEFAULTS[kind], **text_settings(kind, tokenizer, text)}
    if is_instruct:
        vision["model_type"], qformer["model_type"] = "instructblip_vision_model", "instructblip_qformer"
        del qformer["use_qformer_text_input"]
        qformer["vocab_size"] = max(qformer["vocab_size"], qformer_tokenizer().get_vocab_size())
    if kind == "llama":
        text.setdefault("head_dim", text["hidden_size"] // text["num_attention_heads"])
    if kind == "t5":
        *gated, activation = text["feed_forward_proj"].split("-")
        text.setdefault("is_gated_act", bool(gated))
        text.setdefault("dense_act_fn", "gelu_new" if gated and activation == "gelu" else activation)
    own = {"architectures": ["InstructBlipForConditionalGeneration"], "model_type": "instructblip"}
    if not is_instruct:
        own = {"architectures": ["Blip2ForConditionalGeneration"], "model_type": "blip-2"}
        own |= {"image_text_hidden_size": 256, **({"is_encoder_decoder": True} if kind == "t5" else {})}
    config = {
        **own,
        "dtype": dtype,
        "image_token_index": tokenizer.token_to_id("<image>"),
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "num_query_tokens": num_query_tokens,
        "qformer_config": qformer,
        "text_config": text,
        "use_decoder_only_language_model": kind != "t5",
        "vision_config": vision,
    }
    if tied_head is None:
        tied_head = kind == "opt"
    shapes = {**dict(vision_shapes(vision)), **dict(qformer_shapes(config))}
    shapes.update({"opt": opt_shapes, "t5": t5_shapes, "llama": llama_shapes}[kind](text, tied_head))
    _write_json(folder / "config.json", config)
    tokens = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    _write_json(folder / "generation_config.json", {name: text[name] for name in tokens if name in text})
    _write_weights(folder, _draw(shapes, seed, std, text.get("d_kv", 1)), dtype, max_shard_size)
    _write_processor(folder, tokenizer, kind, int(vision["image_size"]), num_query_tokens, is_instruct)
    return folder


def make_retriever(
    folder: Path | str,
    seed: int = 0,
    *,
    vision: dict[str, Any] | None = None,
    qformer: dict[str, Any] | None = None,
    num_query_tokens: int = 5,
    embedding_size: int = 16,
    std: float = 0.05,
    dtype: str = "float32",
    max_shard_size: str = "5GB",
) -> Path:
    """Writes a random checkpoint for image-text retrieval into `folder` and returns the folder.

    As the official ones it has a vocabulary and no tokenizer.json, and a default language model in its configuration.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vision = {**_VISION_DEFAULTS, **VISION, **(vision or {})}
    vocabulary = retriever_vocabulary()
    qformer = {
        **_QFORMER_DEFAULTS,
        **QFORMER,
        "use_qformer_text_input": True,
        "vocab_size": len(vocabulary) + 1,  # with [DEC]
        **(qformer or {}),
        "encoder_hidden_size": vision["hidden_size"],
    }
    config = {
        "architectures": ["Blip2ForImageTextRetrieval"],
        "dtype": dtype,
        "image_text_hidden_size": embedding_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "model_type": "blip-2",
        "num_query_tokens": num_query_tokens,
        "qformer_config": qformer,
        "text_config": {"model_type": "opt"},
        "vision_config": vision,
    }
    shapes = {**dict(vision_shapes(vision)), **dict(retriever_shapes(config))}
    _write_json(folder / "config.json", config)
    _write_weights(folder, _draw(shapes, seed, std, 1), dtype, max_shard_size)
    _write_json(folder / "preprocessor_config.json", _picture_settings(int(vision["image_size"])))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), "utf-8")
    _write_json(folder / "added_tokens.json", {"[DEC]": len(vocabulary)})
    settings = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
    _write_json(folder / "tokenizer_config.json", {**settings, "tokenizer_class": "BertTokenizer"})
    return folder


def text_settings(kind: str, tokenizer: Tokenizer, text: dict[str, Any] | None) -> dict[str, Any]:
    """The language model's settings: the small defaults, those that follow from the tokenizer, and `text`."""
    settings = {"vocab_size": tokenizer.get_vocab_size() + 3, **TEXT[kind], **(text or {})}
    if kind == "opt":
        settings.setdefault("eos_token_id", tokenizer.token_to_id("Ċ"))
    if kind == "llama":
        settings.setdefault("pad_token_id", tokenizer.token_to_id("[PAD]"))
    return settings


# Numbers and files


def _draw(shapes: dict[str, Shape], seed: int, std: float, d_kv: int) -> dict[str, np.ndarray]:
    """Every parameter matters: `std` of spread around 0 (norm weights: around 1), matrices 1/sqrt(inputs)."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, shape in sorted(shapes.items()):
        noise = rng.standard_normal(shape) * std
        # Matrices keep the size of what goes through them, so that the logits have clear winners.
        if len(shape) == 2:
            noise *= max(1.0, 1 / (std * shape[-1] ** 0.5))
        # T5 does not scale its scores: draw its queries smaller, or attention would jump at every rounding.
        if name.endswith("Attention.q.weight"):
            noise *= d_kv**-0.5
        is_norm = len(shape) == 1 and name.endswith("weight")
        drawn[name] = (noise + is_norm).astype(np.float32)
    return drawn


def _write_weights(folder: Path, tensors: dict[str, np.ndarray], dtype: str, max_shard_size: str) -> None:
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
    most = int(max_shard_size[:-2]) * units[max_shard_size[-2:]]
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        tensor = tensor.astype(kind)
        if size + tensor.nbytes > most and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        save_tensors(folder / "model.safetensors", shards[0])
        return
    where = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_tensors(folder / file, shard)
        where.update(dict.fromkeys(shard, file))
    held = [tensor for shard in shards for tensor in shard.values()]
    metadata = {"total_parameters": sum(t.size for t in held), "total_size": sum(t.nbytes for t in held)}
    index = {"metadata": metadata, "weight_map": dict(sorted(where.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_processor(
    folder: Path, tokenizer: Tokenizer, kind: str, size: int, queries: int, is_instruct: bool
) -> None:
    """Both of the files that have the picture settings: the hub's, and transformers 5's."""
    settings = _picture_settings(size)
    _write_json(folder / "preprocessor_config.json", settings)
    processor = "InstructBlipProcessor" if is_instruct else "Blip2Processor"
    nested = {"image_processor": settings, "num_query_tokens": queries, "processor_class": processor}
    _write_json(folder / "processor_config.json", nested)
    tokenizer.save(str(folder / "tokenizer.json"))
    common = {
        "backend": "tokenizers",
        "model_max_length": 1000000000000000019884624838656,
        "processor_class": processor,
        "tokenizer_class": "TokenizersBackend",
    }
    _write_json(folder / "tokenizer_config.json", {**common, **special_tokens(kind)})
    if is_instruct:
        (folder / "qformer_tokenizer").mkdir(exist_ok=True)
        qformer_tokenizer().save(str(folder / "qformer_tokenizer" / "tokenizer.json"))
        _write_json(
            folder / "qformer_tokenizer" / "tokenizer_config.json", {**common, **special_tokens("qformer")}
        )


def _picture_settings(size: int) -> dict[str, Any]:
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": IMAGE_MEAN,
        "image_processor_type": "BlipImageProcessor",
        "image_std": IMAGE_STD,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": size, "width": size},
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True), encoding="utf-8")


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Replaces what the file holds by `change` of it."""
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")
