"""The model's shape, read from `config.json` the way transformers' `Blip2Config` reads it.

Official checkpoints leave defaults out of their `config.json`, so every absent key has the value that
transformers gives it (`Blip2VisionConfig`, `Blip2QFormerConfig`, `OPTConfig`, `T5Config`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..errors import CheckpointError
from ..system.small_files import MissingFileError, read_json, short, shown

Family = Literal["opt", "t5"]


@dataclass(frozen=True)
class VisionConfig:
    """The picture encoder: EVA ViT-g/14 in the official checkpoints (Fang et al. 2022)."""

    hidden_size: int = 1408
    intermediate_size: int = 6144
    num_hidden_layers: int = 39
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_positions(self) -> int:
        """Patches and the class token."""
        return self.num_patches + 1

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class QFormerConfig:
    """The querying transformer (Li et al. 2023, section 3.1). Chat models use its query branch alone; of the text
    branch are the vocabulary and the positions."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    cross_attention_frequency: int = 2
    vocab_size: int = 30522
    max_position_embeddings: int = 512

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def has_cross_attention(self, layer: int) -> bool:
        return layer % self.cross_attention_frequency == 0


@dataclass(frozen=True)
class OptConfig:
    """The decoder-only language model (Zhang et al. 2022)."""

    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    ffn_dim: int = 3072
    num_attention_heads: int = 12
    max_position_embeddings: int = 2048
    activation_function: str = "relu"
    do_layer_norm_before: bool = True
    word_embed_proj_dim: int | None = None
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    remove_final_layer_norm: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int = 1
    bos_token_id: int = 2
    eos_token_ids: tuple[int, ...] = (2,)

    family: Family = "opt"
    # OPT's position table starts with two rows that no token uses.
    position_offset: int = 2
    layer_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def context_length(self) -> int:
        """Positions the model has, picture tokens included."""
        return self.max_position_embeddings

    @property
    def decoder_start_token_id(self) -> None:
        return None


@dataclass(frozen=True)
class T5Config:
    """The encoder-decoder language model (Raffel et al. 2020; Flan-T5: Chung et al. 2022)."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    # The official configurations say "gated-gelu" and, beside it, "gelu": a key that is there overrides what
    # `feed_forward_proj` means, as in transformers.
    dense_act_fn: str | None = None
    is_gated_act: bool | None = None
    # T5 1.0 scales the decoder's output by d_model**-0.5 before the head; 1.1 and Flan do not, and their
    # configurations tell it by `tie_word_embeddings: false`. Whether the head is tied, the weights tell.
    scale_decoder_outputs: bool = True
    pad_token_id: int = 0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = (1,)
    decoder_start_token_id: int = 0

    family: Family = "t5"
    # Relative positions have no end; the model was trained on prompts of this length.
    context_length: int = 512

    @property
    def hidden_size(self) -> int:
        return self.d_model

    @property
    def inner_dim(self) -> int:
        return self.num_heads * self.d_kv

    @property
    def is_gated(self) -> bool:
        by_name = self.feed_forward_proj.startswith("gated-")
        return by_name if self.is_gated_act is None else self.is_gated_act

    @property
    def activation(self) -> str:
        """`dense_act_fn`. Where a configuration has none, what transformers reads from `feed_forward_proj`:
        `gelu_new` for `gated-gelu`, else the name after `gated-`."""
        if self.dense_act_fn is not None:
            return self.dense_act_fn
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.split("-")[-1]


TextConfig = OptConfig | T5Config


@dataclass(frozen=True)
class ModelConfig:
    """A BLIP-2 model for conditional generation: its three parts and how they join."""

    vision: VisionConfig
    qformer: QFormerConfig
    text: TextConfig
    num_query_tokens: int = 32
    image_token_id: int | None = None

    @property
    def family(self) -> Family:
        return self.text.family

    @property
    def prompt_budget(self) -> int:
        """Text tokens (prompt, and for OPT the answer too) that fit beside the picture."""
        return self.text.context_length - self.num_query_tokens

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Reads `folder/config.json`; `CheckpointError` when it is absent, not JSON, or not BLIP-2."""
        return cls.from_dict(*read_raw(folder))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """The parsed `config.json` -> the shape. `where` names it in errors."""
        kind = raw.get("model_type") if isinstance(raw, dict) else None
        if kind != "blip-2":
            raise CheckpointError(
                f"{where}: model_type is {shown(kind)}, not 'blip-2'; name a BLIP-2 checkpoint, "
                "such as Salesforce/blip2-opt-2.7b",
                path=where,
            )
        if is_retrieval(raw):
            raise CheckpointError(
                f"{where}: this checkpoint matches pictures with texts (blip2-chat match, "
                "blip2_chat.load_retriever) and has no language model to chat with; for that use "
                "Salesforce/blip2-opt-2.7b or another Blip2ForConditionalGeneration checkpoint",
                path=where,
            )
        try:
            text = dict(raw.get("text_config") or {})
            return cls(
                vision=read_vision(raw),
                qformer=read_qformer(raw),
                text=_text(text, where),
                num_query_tokens=int(raw.get("num_query_tokens", 32)),
                image_token_id=_image_token(raw.get("image_token_index", raw.get("image_token_id"))),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{where}: {short(str(error), 200)}", path=where) from None


def read_raw(folder: Path) -> tuple[Any, str]:
    """(The parsed `folder/config.json`, its path for errors); `CheckpointError` when it is absent or not JSON."""
    path = Path(folder) / "config.json"
    try:
        return read_json(path), str(path)
    except MissingFileError:
        raise CheckpointError(
            f"{folder} has no config.json: it is not a checkpoint folder", path=folder
        ) from None


def is_retrieval(raw: Any) -> bool:
    """Whether a parsed `config.json` is that of a model for image-text retrieval."""
    return isinstance(raw, dict) and "ForImageTextRetrieval" in str(raw.get("architectures"))


def _pick(kind: type[Any], raw: dict[str, Any], **override: Any) -> Any:
    """The dataclass's fields found in `raw`, its defaults for the absent and the null ones."""
    known = {
        field.name: _of_type(field.name, str(field.type), raw[field.name])
        for field in fields(kind)
        if raw.get(field.name) is not None and field.name not in override
    }
    return kind(**{**known, **override})


# Far above any real size; tables of relative positions are as long as a size says, without a file that proves it.
_LARGEST_SIZE = 1 << 24
_FARTHEST = 1 << 16

# What JSON holds for a field that is annotated so; of others (lists of stop tokens) there is no wrong type here.
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int,),
    "float": (int, float),
    "str": (str,),
    "str | None": (str,),
    "bool": (bool,),
    "bool | None": (bool,),
}


def _of_type(name: str, annotation: str, value: Any) -> Any:
    """The value, if it can be this field's: a size of nothing would be a division by zero somewhere else."""
    types = _TYPES.get(annotation)
    # How many layers a model may have, `tensor_names.py` says.
    least, most = (0, None) if name.endswith("layers") else (1, _LARGEST_SIZE)
    is_size = types == (int,) and not name.endswith("token_id")
    if (types and type(value) not in types) or (is_size and (value < least or (most and value > most))):
        raise ValueError(f"{name} is {shown(value)}")
    return value


def _require_whole_heads(part: str, config: VisionConfig | QFormerConfig | OptConfig) -> None:
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(f"{part} hidden_size {config.hidden_size} is not a multiple of its heads")


def _require_feed_forward(name: str) -> None:
    """Transformers' own rule: an activation's name, or "gated-" and one."""
    parts = name.split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        raise ValueError(f"feed_forward_proj is {shown(name)}, and not an activation or gated-ACTIVATION")


def _square(value: int | list[int], name: str) -> int:
    if isinstance(value, int):
        return value
    sides = [int(side) for side in value]
    if len(set(sides)) != 1:
        raise ValueError(f"{name} {shown(value)} is not square")
    return sides[0]


def read_vision(whole: dict[str, Any]) -> VisionConfig:
    """The picture encoder of a parsed `config.json`; `TypeError` or `ValueError` for one that cannot be."""
    raw = dict(whole.get("vision_config") or {})
    sides = {
        name: _square(raw[name], name) for name in ("image_size", "patch_size") if raw.get(name) is not None
    }
    config: VisionConfig = _pick(VisionConfig, {**raw, **sides})
    _require_whole_heads("vision", config)
    if config.patch_size > config.image_size:
        raise ValueError(f"patch_size {config.patch_size} is larger than image_size {config.image_size}")
    return config


def read_qformer(whole: dict[str, Any]) -> QFormerConfig:
    """The Q-Former of a parsed `config.json`; `TypeError` or `ValueError` for one that cannot be."""
    config: QFormerConfig = _pick(QFormerConfig, dict(whole.get("qformer_config") or {}))
    _require_whole_heads("qformer", config)
    return config


def _image_token(value: object) -> int | None:
    if value is not None and type(value) is not int:
        raise ValueError(f"image_token_index is {shown(value)}")
    return value


def _ids(value: object, default: int) -> tuple[int, ...]:
    """`eos_token_id`: one token, or several that end an answer."""
    found = value if isinstance(value, list) else [default if value is None else value]
    if not found or not all(type(token) is int for token in found):
        raise ValueError(f"eos_token_id is {shown(value)}")
    return tuple(found)


def _require_tokens(text: TextConfig) -> None:
    """The tokens that the package itself puts into prompts and looks for in answers are in the vocabulary."""
    named = {"bos_token_id": text.bos_token_id, "decoder_start_token_id": text.decoder_start_token_id}
    for name, token in [*named.items(), *(("eos_token_id", token) for token in text.eos_token_ids)]:
        if token is not None and not 0 <= token < text.vocab_size:
            raise ValueError(f"{name} is {shown(token)}, and the vocabulary has {text.vocab_size} tokens")


def _require_distances(t5: T5Config) -> None:
    """Near distances have a bucket each, far ones share the rest: both kinds must exist."""
    buckets, most = t5.relative_attention_num_buckets, t5.relative_attention_max_distance
    if not 4 <= buckets <= _FARTHEST or not buckets // 2 < most <= _FARTHEST:
        raise ValueError(f"relative positions with {buckets} buckets up to distance {most} do not exist")


def _text(raw: dict[str, Any], where: str) -> TextConfig:
    kind = raw.get("model_type", "opt")
    if kind == "opt":
        opt: OptConfig = _pick(
            OptConfig,
            raw,
            eos_token_ids=_ids(raw.get("eos_token_id"), 2),
            remove_final_layer_norm=bool(raw.get("_remove_final_layer_norm", False)),
        )
        _require_whole_heads("text", opt)
        _require_tokens(opt)
        return opt
    if kind == "t5":
        _require_feed_forward(str(raw.get("feed_forward_proj", T5Config.feed_forward_proj)))
        layers = int(raw.get("num_layers", T5Config.num_layers))
        t5: T5Config = _pick(
            T5Config,
            raw,
            num_decoder_layers=int(raw.get("num_decoder_layers") or layers),
            scale_decoder_outputs=bool(
                raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings") is not False)
            ),
            eos_token_ids=_ids(raw.get("eos_token_id"), 1),
        )
        _require_distances(t5)
        _require_tokens(t5)
        return t5
    raise CheckpointError(
        f"{where}: the language model is {shown(kind)}; this package knows 'opt' and 't5'", path=where
    )
