"""The model's shape, read from `config.json` the way transformers' `Blip2Config` and `InstructBlipConfig` read it.

Official checkpoints leave defaults out of their `config.json`, so every absent key has the value that
transformers gives it (`Blip2VisionConfig`, `Blip2QFormerConfig`, `OPTConfig`, `T5Config`, `LlamaConfig`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import CheckpointError
from ..system.small_files import MissingFileError, read_json, short, shown
from .architecture import Architecture, chat_architectures, is_retrieval
from .language.description import LanguageModel
from .language.llama import LlamaConfig
from .language.opt import OptConfig
from .language.t5 import T5Config
from .layout import Tensors, linear
from .qformer_config import QFormerConfig, qformer_tensors, read_qformer
from .text_config import LANGUAGE_MODELS, TextConfig, read_text_config
from .vision_config import VisionConfig, read_vision, vision_tensors

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

Family: TypeAlias = str
"""The name of an architecture that has a language model: one of `FAMILIES`."""
FAMILIES: tuple[Family, ...] = tuple(one.family for one in chat_architectures())


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
        return self.architecture.family

    @property
    def architecture(self) -> Architecture:
        """The member of the family that these parts make."""
        parts = self.text.kind, self.reads_instruction
        return next(one for one in chat_architectures() if (one.kind, one.reads_instruction) == parts)

    @property
    def language(self) -> LanguageModel:
        """What is known of its kind of language model."""
        return LANGUAGE_MODELS[self.text.kind]

    @property
    def reads_instruction(self) -> bool:
        """Whether the Q-Former reads the prompt beside the picture, so that query vectors depend on both."""
        return self.qformer.use_qformer_text_input

    @property
    def prompt_budget(self) -> int:
        """Text tokens (prompt, and for decoder-only models the answer too) that fit beside the picture."""
        return self.text.context_length - self.num_query_tokens

    @property
    def cached_numbers(self) -> int:
        """Numbers in the KV cache per token."""
        # An encoder-decoder model also has those over the encoder's output.
        return self.text.cached_numbers * (1 if self.text.is_decoder_only else 2)

    @property
    def layer_counts(self) -> tuple[int, ...]:
        return self.vision.num_hidden_layers, self.qformer.num_hidden_layers, *self.text.layer_counts

    def tensors(self) -> Tensors:
        """Every tensor of the official layout; see `expected_tensors`."""
        width = self.qformer.hidden_size
        yield from vision_tensors(self.vision)
        yield from qformer_tensors(
            self.qformer, self.num_query_tokens, self.vision.hidden_size, reads_text=self.reads_instruction
        )
        yield from linear("language_projection", width, self.text.hidden_size)
        yield from self.language.tensors(self.text)

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Reads `folder/config.json`; `CheckpointError` when it is absent, not JSON, or of another model."""
        return cls.from_dict(*read_raw(folder))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """The parsed `config.json` -> the shape. `where` names it in errors."""
        model_type = raw.get("model_type") if isinstance(raw, dict) else None
        members = {one.kind: one for one in chat_architectures(str(model_type))}
        if not members:
            known = " or ".join(dict.fromkeys(repr(one.model_type) for one in chat_architectures()))
            raise CheckpointError(
                f"{where}: model_type is {shown(model_type)}, not {known}; name a BLIP-2 checkpoint, "
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
            if text.kind not in members:
                raise CheckpointError(
                    f"{where}: the language model is {text.kind!r}; those of {model_type} that this package "
                    f"knows are {' and '.join(map(repr, members))}",
                    path=where,
                )
            return cls(
                vision=read_vision(raw),
                qformer=read_qformer(raw, reads_instruction=members[text.kind].reads_instruction),
                text=text,
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


def _image_token(value: object) -> int | None:
    if value is not None and type(value) is not int:
        raise ValueError(f"image_token_index is {shown(value)}")
    return value
