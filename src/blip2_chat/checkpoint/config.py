"""The model's shape, read from `config.json` the way transformers' `Blip2Config` and `InstructBlipConfig` read it.

Official checkpoints leave defaults out of their `config.json`, so every absent key has the value that
transformers gives it (`Blip2VisionConfig`, `Blip2QFormerConfig`, `OPTConfig`, `T5Config`, `LlamaConfig`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ..errors import CheckpointError
from ..system.small_files import MissingFileError, read_json, short, shown
from .fields import pick, require_whole_heads
from .text_config import LanguageModelKind, LlamaConfig, OptConfig, T5Config, TextConfig, read_text_config

__all__ = [
    "FAMILIES",
    "Family",
    "LlamaConfig",
    "ModelConfig",
    "OptConfig",
    "QFormerConfig",
    "T5Config",
    "TextConfig",
    "VisionConfig",
]

# The language model, and before it whether the Q-Former reads the instruction (InstructBLIP).
Family = Literal["opt", "t5", "instruct-t5", "instruct-llama"]
FAMILIES: tuple[Family, ...] = get_args(Family)


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
    """The querying transformer (Li et al. 2023, section 3.1). Its text branch is used where it reads the instruction
    too (`use_qformer_text_input`; InstructBLIP, Dai et al. 2023)."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    cross_attention_frequency: int = 2
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    use_qformer_text_input: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def has_cross_attention(self, layer: int) -> bool:
        return layer % self.cross_attention_frequency == 0


@dataclass(frozen=True)
class ModelConfig:
    """A BLIP-2 or InstructBLIP model for conditional generation: its three parts and how they join."""

    vision: VisionConfig
    qformer: QFormerConfig
    text: TextConfig
    num_query_tokens: int = 32
    image_token_id: int | None = None

    @property
    def family(self) -> Family:
        found: Any = f"instruct-{self.text.kind}" if self.reads_instruction else self.text.kind
        return cast(Family, found)

    @property
    def reads_instruction(self) -> bool:
        """Whether the Q-Former reads the prompt beside the picture, so that query vectors depend on both."""
        return self.qformer.use_qformer_text_input

    @property
    def prompt_budget(self) -> int:
        """Text tokens (prompt, and for decoder-only models the answer too) that fit beside the picture."""
        return self.text.context_length - self.num_query_tokens

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Reads `folder/config.json`; `CheckpointError` when it is absent, not JSON, or of another model."""
        return cls.from_dict(*read_raw(folder))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """The parsed `config.json` -> the shape. `where` names it in errors."""
        kind = raw.get("model_type") if isinstance(raw, dict) else None
        if not isinstance(kind, str) or kind not in _MODEL_TYPES:
            raise CheckpointError(
                f"{where}: model_type is {shown(kind)}, not 'blip-2' or 'instructblip'; name a BLIP-2 checkpoint, "
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
            text = read_text_config(dict(raw.get("text_config") or {}), where)
            if text.kind not in _MODEL_TYPES[kind]:
                raise CheckpointError(
                    f"{where}: the language model is {text.kind!r}; those of {kind} that this package knows are "
                    f"{' and '.join(map(repr, _MODEL_TYPES[kind]))}",
                    path=where,
                )
            return cls(
                vision=read_vision(raw),
                qformer=read_qformer(raw, reads_instruction=kind == "instructblip"),
                text=text,
                num_query_tokens=int(raw.get("num_query_tokens", 32)),
                image_token_id=_image_token(raw.get("image_token_index", raw.get("image_token_id"))),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{where}: {short(str(error), 200)}", path=where) from None


# By `model_type`, the language models of its checkpoints.
_MODEL_TYPES: dict[str, tuple[LanguageModelKind, ...]] = {
    "blip-2": ("opt", "t5"),
    "instructblip": ("t5", "llama"),
}


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
    config: VisionConfig = pick(VisionConfig, {**raw, **sides})
    require_whole_heads("vision", config.hidden_size, config.num_attention_heads)
    if config.patch_size > config.image_size:
        raise ValueError(f"patch_size {config.patch_size} is larger than image_size {config.image_size}")
    return config


def read_qformer(whole: dict[str, Any], reads_instruction: bool = False) -> QFormerConfig:
    """The Q-Former of a parsed `config.json`; `TypeError` or `ValueError` for one that cannot be."""
    raw = dict(whole.get("qformer_config") or {})
    config: QFormerConfig = pick(QFormerConfig, raw, use_qformer_text_input=reads_instruction)
    require_whole_heads("qformer", config.hidden_size, config.num_attention_heads)
    return config


def _image_token(value: object) -> int | None:
    if value is not None and type(value) is not int:
        raise ValueError(f"image_token_index is {shown(value)}")
    return value
