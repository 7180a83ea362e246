"""A checkpoint of an official shape with synthetic weights, in the official layout, written as a stream.

The weights are slices of one pool of normal numbers, scaled to keep what flows through the layers its size. Speed
and memory do not depend on their values; accuracy is not measured on them.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, replace
from math import prod
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from blip2_chat.checkpoint.catalogue import KNOWN, KnownCheckpoint
from blip2_chat.checkpoint.config import (
    LlamaConfig,
    ModelConfig,
    OptConfig,
    QFormerConfig,
    TextConfig,
    VisionConfig,
)
from blip2_chat.checkpoint.retrieval_config import AnyConfig
from blip2_chat.checkpoint.tensor_names import distinct_tensors

# A little more than 16 million, and prime: no two matrices get the same slice.
_POOL = 16_777_259
_SHARD = 2_000_000_000
_WORDS = (
    "Question",
    "Answer",
    ":",
    "?",
    ".",
    "how",
    "many",
    "cats",
    "are",
    "there",
    "two",
    "what",
    "they",
    "doing",
)


# What config.json says of a language model under the names that we have, too.
_SHAPE = {
    "opt": ("vocab_size", "hidden_size", "num_hidden_layers", "ffn_dim", "num_attention_heads"),
    "t5": (
        *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads"),
        *("feed_forward_proj", "dense_act_fn", "decoder_start_token_id"),
    ),
    "llama": (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act"),
    ),
}
# A tokenizer's control tokens, each at the place where the family has it.
_CONTROL = {
    "opt": ["<s>", "<pad>", "</s>", "<unk>"],
    "t5": ["<pad>", "</s>", "<unk>"],
    "llama": ["<unk>", "<s>", "</s>"],
}


# Shapes for checks of the benchmarks themselves: every part is there, and small.
TINY, TINY_INSTRUCT = "tiny", "tiny-instruct"
_TINY = ModelConfig(
    vision=VisionConfig(64, 128, 2, 4, image_size=28, patch_size=14),
    qformer=QFormerConfig(64, 2, 4, 128),
    text=OptConfig(
        vocab_size=320,
        hidden_size=64,
        num_hidden_layers=2,
        ffn_dim=128,
        num_attention_heads=4,
        word_embed_proj_dim=64,
    ),
    num_query_tokens=8,
    image_token_id=319,
)


_TINY_INSTRUCT = replace(
    _TINY,
    qformer=replace(_TINY.qformer, vocab_size=320, use_qformer_text_input=True),
    text=LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        eos_token_ids=(1, 2),
    ),
)
_TINIES = {TINY: _TINY, TINY_INSTRUCT: _TINY_INSTRUCT}


def shape_of(name: str) -> ModelConfig:
    """Of an official checkpoint, `TINY` or `TINY_INSTRUCT`."""
    return _TINIES[name] if name in _TINIES else known(name).config


def known(name: str) -> KnownCheckpoint:
    return next(one for one in KNOWN if one.name == name)


def write_checkpoint(folder: Path, name: str = "Salesforce/blip2-opt-2.7b", seed: int = 0) -> Path:
    """Writes float16 safetensors in shards, configuration, tokenizer and preprocessor of the checkpoint `name`."""
    config = shape_of(name)
    write_weights(folder, config, seed)
    _write_small_files(folder, config)
    return folder


def write_weights(folder: Path, config: AnyConfig, seed: int = 0) -> None:
    """Writes float16 safetensors in shards for a model of this shape."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = distinct_tensors(config)
    shards: list[list[str]] = [[]]
    size = 0
    for tensor, shape in tensors.items():
        if size + prod(shape) * 2 > _SHARD:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += prod(shape) * 2
    pool = np.random.default_rng(seed).standard_normal(_POOL, np.float32).astype(np.float16)
    index = {}
    offset = 0
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header: dict[str, object] = {}
        at = 0
        for tensor in names:
            nbytes = prod(tensors[tensor]) * 2
            header[tensor] = {"dtype": "F16", "shape": tensors[tensor], "data_offsets": [at, at + nbytes]}
            index[tensor] = file
            at += nbytes
        encoded = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(encoded)) + encoded)
            for tensor in names:
                offset = _write(out, pool, tensor, tensors[tensor], offset)
    total = sum(prod(shape) for shape in tensors.values()) * 2
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )


def _write(out, pool: np.ndarray, name: str, shape: tuple[int, ...], offset: int) -> int:  # type: ignore[no-untyped-def, type-arg]
    count = prod(shape)
    if len(shape) == 1:
        values = np.full(count, 1.0 if name.endswith("weight") else 0.0, np.float16)
        out.write(values.data)
        return offset
    scale = np.float16(1 / np.sqrt(prod(shape[1:])) if len(shape) == 2 else 0.02)
    scaled = pool * scale
    while count:
        part = scaled[offset : offset + count]
        out.write(part.data)
        count -= part.size
        offset = (offset + part.size) % _POOL
    return offset


def _write_small_files(folder: Path, shape: ModelConfig) -> None:
    text, image_token = shape.text, shape.image_token_id
    model, kind = ("InstructBlip", "instructblip") if shape.reads_instruction else ("Blip2", "blip-2")
    part = kind.replace("-", "_")
    config = {
        "architectures": [f"{model}ForConditionalGeneration"],
        "model_type": kind,
        "image_token_index": image_token,
        "num_query_tokens": shape.num_query_tokens,
        "vision_config": {"model_type": f"{part}_vision_model", **asdict(shape.vision)},
        "qformer_config": {
            "model_type": f"{part}_qformer",
            "encoder_hidden_size": shape.vision.hidden_size,
            **asdict(shape.qformer),
        },
        "text_config": _text_config(text),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    size = shape.vision.image_size
    preprocessor = {
        "image_processor_type": "BlipImageProcessor",
        "size": {"height": size, "width": size},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": f"{model}Processor", "num_query_tokens": shape.num_query_tokens})
    )
    # Control tokens at the family's own places, then words; as many tokens per question as its own tokenizer needs.
    is_first = text.is_decoder_only
    vocabulary = {word: number for number, word in enumerate([*_CONTROL[text.kind], *_WORDS])}
    for number in range(len(vocabulary), text.vocab_size):
        vocabulary["<image>" if number == image_token else f"w{number}"] = number
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A" if is_first else "$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    about |= {} if text.kind == "llama" else {"pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(about | ({"bos_token": "</s>"} if is_first else {}))
    )
    if shape.reads_instruction:
        _write_qformer_tokenizer(folder / "qformer_tokenizer")


def _write_qformer_tokenizer(folder: Path) -> None:
    """As many tokens per question as BERT's own needs for such words."""
    folder.mkdir()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(word.lower() for word in _WORDS)]
    tokenizer = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def _text_config(text: TextConfig) -> dict[str, object]:
    told: dict[str, object] = {
        "model_type": text.kind,
        **{name: getattr(text, name) for name in _SHAPE[text.kind]},
    }
    if isinstance(text, LlamaConfig):
        return told | {"bos_token_id": 0, "eos_token_id": text.eos_token_ids[0], "tie_word_embeddings": False}
    if isinstance(text, OptConfig):
        return told | {"word_embed_proj_dim": text.hidden_size, "eos_token_id": text.eos_token_ids[0]}
    return told | {"tie_word_embeddings": text.scale_decoder_outputs}
