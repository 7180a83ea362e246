"""The shape of a model for image-text retrieval, read from `config.json` as transformers reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..system.small_files import short, shown
from .architecture import RETRIEVAL, Architecture, is_retrieval
from .config import ModelConfig, read_raw
from .layout import Tensors, linear
from .qformer_config import QFormerConfig, qformer_tensors, read_qformer
from .vision_config import VisionConfig, read_vision, vision_tensors

_LARGEST = 1 << 16


@dataclass(frozen=True)
class RetrievalConfig:
    """A `Blip2ForImageTextRetrieval`: a picture encoder, and a Q-Former that reads pictures, texts or both."""

    vision: VisionConfig
    qformer: QFormerConfig
    num_query_tokens: int = 32
    embedding_size: int = 256

    family: str = RETRIEVAL.family

    @property
    def architecture(self) -> Architecture:
        return RETRIEVAL

    @property
    def text(self) -> None:
        """It has no language model."""
        return None

    @property
    def reads_instruction(self) -> bool:
        return False

    @property
    def cached_numbers(self) -> int:
        return 0

    @property
    def layer_counts(self) -> tuple[int, ...]:
        return self.vision.num_hidden_layers, self.qformer.num_hidden_layers

    def tensors(self) -> Tensors:
        """Every tensor of the official layout; see `expected_tensors`."""
        width = self.qformer.hidden_size
        yield from vision_tensors(self.vision)
        yield "embeddings.word_embeddings.weight", (self.qformer.vocab_size, width)
        yield "embeddings.position_embeddings.weight", (self.qformer.max_position_embeddings, width)
        yield from qformer_tensors(
            self.qformer, self.num_query_tokens, self.vision.hidden_size, reads_text=True
        )
        yield from linear("vision_projection", width, self.embedding_size)
        yield from linear("text_projection", width, self.embedding_size)
        yield from linear("itm_head", width, 2)

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
