"""Random checkpoints in the official layout, small enough for a test, written with numpy and safetensors alone.

`make_checkpoint` writes the files that a BLIP-2 or InstructBLIP repository on the hub has: configuration, weights
under the official names, tokenizers, picture settings. tests/engines/test_checkpoints.py holds them against what
transformers itself writes (tests/support/transformers_checkpoints.py), so that the tests of the core need neither
torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

Shape = tuple[int, ...]

IMAGE_MEAN = [0.48145466, 0.4578275, 0.40821073]
IMAGE_STD = [0.26862954, 0.26130258, 0.27577711]

_CORPUS = [
    "Question: how many cats are there? Answer: two\n",
    "Question: what colour is the car on the left? Short answer: red\n",
    "a photo of a dog running on the beach\n",
    "this is a picture of a city street at night\n",
    "Question: which city is this? Answer: singapore. Question: why? Answer:\n",
]

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
    shapes = {**dict(_vision(vision)), **dict(_qformer(config))}
    shapes.update({"opt": _opt, "t5": _t5, "llama": _llama}[kind](text, tied_head))
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
    shapes = {**dict(_vision(vision)), **dict(_retriever(config))}
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


# Names and shapes


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _vision(vision: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, patch = vision["hidden_size"], vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2 + 1
    yield "vision_model.embeddings.class_embedding", (1, 1, width)
    yield "vision_model.embeddings.position_embedding", (1, positions, width)
    yield "vision_model.embeddings.patch_embedding.weight", (width, 3, patch, patch)
    yield "vision_model.embeddings.patch_embedding.bias", (width,)
    for number in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{number}"
        yield from _norm(f"{layer}.layer_norm1", width)
        yield from _norm(f"{layer}.layer_norm2", width)
        yield from _linear(f"{layer}.self_attn.qkv", width, 3 * width, vision["qkv_bias"])
        yield from _linear(f"{layer}.self_attn.projection", width, width)
        yield from _linear(f"{layer}.mlp.fc1", width, vision["intermediate_size"])
        yield from _linear(f"{layer}.mlp.fc2", vision["intermediate_size"], width)
    yield from _norm("vision_model.post_layernorm", width)


def _qformer(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    reads_text = config["model_type"] == "instructblip"
    yield from _qformer_layers(config, ["_query", ""] if reads_text else ["_query"])
    width, text = config["qformer_config"]["hidden_size"], config["text_config"]
    yield from _linear("language_projection", width, text.get("hidden_size") or text["d_model"])


def _retriever(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    qformer = config["qformer_config"]
    width, size = qformer["hidden_size"], config["image_text_hidden_size"]
    yield "embeddings.word_embeddings.weight", (qformer["vocab_size"], width)
    yield "embeddings.position_embeddings.weight", (qformer["max_position_embeddings"], width)
    yield from _qformer_layers(config, ["_query", ""])
    yield from _linear("vision_projection", width, size)
    yield from _linear("text_projection", width, size)
    yield from _linear("itm_head", width, 2)


def _qformer_layers(config: dict[str, Any], branches: list[str]) -> Iterator[tuple[str, Shape]]:
    qformer = config["qformer_config"]
    width, inner = qformer["hidden_size"], qformer["intermediate_size"]
    reads_text = config["model_type"] == "instructblip"
    yield "query_tokens", (1, config["num_query_tokens"], width)
    if reads_text:
        yield "qformer.embeddings.word_embeddings.weight", (qformer["vocab_size"], width)
        yield "qformer.embeddings.position_embeddings.weight", (qformer["max_position_embeddings"], width)
    yield from _norm("qformer.embeddings.layernorm" if reads_text else "qformer.layernorm", width)
    for number in range(qformer["num_hidden_layers"]):
        layer = f"qformer.encoder.layer.{number}"
        kinds = {"attention": width}
        if number % qformer["cross_attention_frequency"] == 0:
            kinds["crossattention"] = qformer["encoder_hidden_size"]
        for kind, source in kinds.items():
            yield from _linear(f"{layer}.{kind}.attention.query", width, width)
            yield from _linear(f"{layer}.{kind}.attention.key", source, width)
            yield from _linear(f"{layer}.{kind}.attention.value", source, width)
            yield from _linear(f"{layer}.{kind}.output.dense", width, width)
            yield from _norm(f"{layer}.{kind}.output.LayerNorm", width)
        for branch in branches:
            yield from _linear(f"{layer}.intermediate{branch}.dense", width, inner)
            yield from _linear(f"{layer}.output{branch}.dense", inner, width)
            yield from _norm(f"{layer}.output{branch}.LayerNorm", width)


def _opt(text: dict[str, Any], tied_head: bool) -> Iterator[tuple[str, Shape]]:
    width, words = text["hidden_size"], text["vocab_size"]
    bias, affine = text["enable_bias"], text["layer_norm_elementwise_affine"]
    decoder = "language_model.model.decoder"
    yield f"{decoder}.embed_tokens.weight", (words, width)
    # The first two positions are never used: OPT's own offset.
    yield f"{decoder}.embed_positions.weight", (text["max_position_embeddings"] + 2, width)
    for number in range(text["num_hidden_layers"]):
        layer = f"{decoder}.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{name}", width, width, bias)
        yield from _linear(f"{layer}.fc1", width, text["ffn_dim"], bias)
        yield from _linear(f"{layer}.fc2", text["ffn_dim"], width, bias)
        if affine:
            yield from _norm(f"{layer}.self_attn_layer_norm", width)
            yield from _norm(f"{layer}.final_layer_norm", width)
    if affine and not text["_remove_final_layer_norm"]:
        yield from _norm(f"{decoder}.final_layer_norm", width)
    if not tied_head:
        yield "language_model.lm_head.weight", (words, width)


def _t5(text: dict[str, Any], tied_head: bool) -> Iterator[tuple[str, Shape]]:
    width, inner = text["d_model"], text["num_heads"] * text["d_kv"]
    yield "language_model.shared.weight", (text["vocab_size"], width)
    stacks = {"encoder": text["num_layers"], "decoder": text["num_decoder_layers"]}
    for stack, layers in stacks.items():
        for number in range(layers):
            block = f"language_model.{stack}.block.{number}.layer"
            attentions = ["SelfAttention", "EncDecAttention"][: 2 if stack == "decoder" else 1]
            for place, attention in enumerate(attentions):
                for name in "qkv":
                    yield f"{block}.{place}.{attention}.{name}.weight", (inner, width)
                yield f"{block}.{place}.{attention}.o.weight", (width, inner)
                yield f"{block}.{place}.layer_norm.weight", (width,)
            if number == 0:
                buckets = (text["relative_attention_num_buckets"], text["num_heads"])
                yield f"{block}.0.SelfAttention.relative_attention_bias.weight", buckets
            feed = f"{block}.{len(attentions)}"
            for name in ("wi_0", "wi_1") if text["is_gated_act"] else ("wi",):
                yield f"{feed}.DenseReluDense.{name}.weight", (text["d_ff"], width)
            yield f"{feed}.DenseReluDense.wo.weight", (width, text["d_ff"])
            yield f"{feed}.layer_norm.weight", (width,)
        yield f"language_model.{stack}.final_layer_norm.weight", (width,)
    if not tied_head:
        yield "language_model.lm_head.weight", (text["vocab_size"], width)


def _llama(text: dict[str, Any], tied_head: bool) -> Iterator[tuple[str, Shape]]:
    width, words, head = text["hidden_size"], text["vocab_size"], text["head_dim"]
    sizes = {
        "q": text["num_attention_heads"],
        "k": text["num_key_value_heads"],
        "v": text["num_key_value_heads"],
    }
    yield "language_model.model.embed_tokens.weight", (words, width)
    for number in range(text["num_hidden_layers"]):
        layer = f"language_model.model.layers.{number}"
        for name, heads in sizes.items():
            yield from _linear(f"{layer}.self_attn.{name}_proj", width, heads * head, text["attention_bias"])
        yield from _linear(f"{layer}.self_attn.o_proj", sizes["q"] * head, width, text["attention_bias"])
        for name in ("gate_proj", "up_proj"):
            yield from _linear(f"{layer}.mlp.{name}", width, text["intermediate_size"], text["mlp_bias"])
        yield from _linear(f"{layer}.mlp.down_proj", text["intermediate_size"], width, text["mlp_bias"])
        yield f"{layer}.input_layernorm.weight", (width,)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
    yield "language_model.model.norm.weight", (width,)
    if not tied_head:
        yield "language_model.lm_head.weight", (words, width)


# Numbers and files

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "uint8": "U8"}


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


def load_tensors(path: Path) -> dict[str, np.ndarray]:
    """What `save_tensors` wrote; bfloat16 as `ml_dtypes.bfloat16`."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    kinds = {short: np.dtype(getattr(ml_dtypes, name, name)) for name, short in _DTYPES.items()}
    tensors = {}
    for name, one in header.items():
        first, end = one["data_offsets"]
        flat = np.frombuffer(content[start + first : start + end], kinds[one["dtype"]])
        tensors[name] = flat.reshape(one["shape"])
    return tensors


def save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file as transformers writes it; safetensors' own numpy part cannot write `ml_dtypes.bfloat16`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype.name],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    data = b"".join(tensor.tobytes() for tensor in tensors.values())
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


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


# Tokenizers


def retriever_vocabulary() -> list[str]:
    """A small vocabulary of WordPiece: whole words, pieces of words, letters, and BERT's own tokens."""
    words = ["dog", "cat", "beach", "woman", "on", "the", "a", "and", "two", "pink", "blanket", "sitting"]
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,!?'-()[]#ß")
    pieces = [f"##{piece}" for piece in (*letters, "s", "ing", "es", "ket")]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *words, *letters, "犬", *pieces]))


def special_tokens(kind: str) -> dict[str, str]:
    """What tokenizer_config.json says of the tokenizer."""
    if kind == "qformer":
        names = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")
        return {name: f"[{name[: -len('_token')].upper()}]" for name in names}
    if kind == "llama":
        return {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "[PAD]"}
    if kind == "t5":
        return {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    return {**names, "padding_side": "left"}


def opt_tokenizer() -> Tokenizer:
    """Byte-level BPE: `<s>` 0, `<pad>` 1, `</s>` 2 put before the text, `<unk>` 3, last `<image>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", 2)]
    )
    return tokenizer


def t5_tokenizer() -> Tokenizer:
    """Unigram over `▁` words as SentencePiece has it: `<pad>` 0, `</s>` 1 put after the text, `<unk>` 2.

    Its pieces are written down, not trained: the trainer gives others from run to run.
    """
    words = sorted({word for line in _CORPUS for word in line.replace("\n", " ").split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -4.0) for word in words] + [(letter, -6.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def llama_tokenizer() -> Tokenizer:
    """BPE over `▁` words with a piece per byte, as LLaMA's: `<unk>` 0, `<s>` 1, `</s>` 2 put before the text (as
    Vicuna's is), last `[PAD]` and `<image>`."""
    special = ["<unk>", "<s>", "</s>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    words = sorted({word for line in _CORPUS for word in line.replace("\n", " ").split()})
    pieces += sorted({letter for word in words for letter in word})
    merges: list[tuple[str, str]] = []
    for word in words:
        built = "▁"
        for letter in word:
            if built + letter not in pieces:
                merges.append((built, letter))
                pieces.append(built + letter)
            built += letter
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.add_special_tokens(
        [
            AddedToken("[PAD]", normalized=False, special=True),
            AddedToken("<image>", normalized=False, special=True),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", 2)]
    )
    return tokenizer


def qformer_tokenizer() -> Tokenizer:
    """WordPiece as bert-base-uncased has it, with `[DEC]` last: `[PAD]` 0, `[UNK]`, `[CLS]` and `[SEP]` around the
    text."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted({letter for line in _CORPUS for letter in line.lower() if not letter.isspace()})
    words = sorted({word.strip("?:.") for line in _CORPUS for word in line.lower().split()} - {""})
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *(w for w in words if len(w) > 1)]
    tokenizer = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([*special, "[DEC]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "opt": opt_tokenizer,
    "t5": t5_tokenizer,
    "llama": llama_tokenizer,
}
