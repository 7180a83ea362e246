"""The shape of a model for image-text retrieval, read from `config.json` as transformers reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import CheckpointError
from ..system.small_files import short, shown
from .config import (
    ModelConfig,
    QFormerConfig,
    VisionConfig,
    is_retrieval,
    read_qformer,
    read_raw,
    read_vision,
)

_LARGEST = 1 << 16


@dataclass(frozen=True)
class RetrievalConfig:
    """A `Blip2ForImageTextRetrieval`: a picture encoder, and a Q-Former that reads pictures, texts or both."""

    vision: VisionConfig
    qformer: QFormerConfig
    num_query_tokens: int = 32
    embedding_size: int = 256

    family: Literal["retrieval"] = "retrieval"

    @property
    def context_length(self) -> int:
        """Tokens of the longest text, with those that begin and end it."""
        return self.qformer.max_position_embeddings

    @classmethod
    def from_folder(cls, folder: Path) -> RetrievalConfig:
        """Reads `folder/config.json`; `CheckpointError` when it is absent, not JSON, or another model's."""
        return cls.from_dict(*read_raw(folder))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config.json") -> RetrievalConfig:
        """The parsed `config.json` -> the shape. `where` names it in errors."""
        if not is_retrieval(raw):
            raise CheckpointError(
                f"{where}: this checkpoint does not match pictures with texts; name one that does, such as "
                "Salesforce/blip2-itm-vit-g",
                path=where,
            )
        try:
            return cls(
                vision=read_vision(raw),
                qformer=read_qformer(raw),
                num_query_tokens=_size(raw, "num_query_tokens", 32),
                embedding_size=_size(raw, "image_text_hidden_size", 256),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{where}: {short(str(error), 200)}", path=where) from None


AnyConfig = ModelConfig | RetrievalConfig
"""A chat model's or a retrieval model's."""


def read_config(folder: Path) -> AnyConfig:
    """Reads `folder/config.json` of either; `CheckpointError` when it is absent, not JSON, or of another model."""
    raw, where = read_raw(folder)
    return (RetrievalConfig if is_retrieval(raw) else ModelConfig).from_dict(raw, where)


def _size(raw: dict[str, Any], name: str, default: int) -> int:
    value = default if raw.get(name) is None else raw[name]
    if type(value) is not int or not 1 <= value <= _LARGEST:
        raise ValueError(f"{name} is {shown(value)}")
    return value
