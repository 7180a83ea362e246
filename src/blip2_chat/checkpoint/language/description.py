"""What the rest of the package has to know of a kind of language model, besides the sizes in its configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..layout import Tensors


@dataclass(frozen=True)
class LanguageModel:
    """One kind of language model. Its ONNX graphs are built by `engines/onnx/graph/<kind>.py`."""

    # `model_type` in `text_config`.
    kind: str
    # The parsed `text_config` -> the frozen dataclass of its sizes; `TypeError` or `ValueError` for one that cannot
    # be.
    read: Callable[[dict[str, Any]], Any]
    # That dataclass -> the tensors of the official layout.
    tensors: Callable[[Any], Tensors]
    # The names of the table of token embeddings, of which a file holds at least one; the official one first.
    embeddings: tuple[str, ...]
    # Its ONNX graphs.
    graphs: tuple[str, ...]
    # (That dataclass, what the tokenizer gives for an empty text) -> the tokens before a prompt, and after it.
    around: Callable[[Any, Sequence[int]], tuple[list[int], list[int]]]
    # In official checkpoints, the token that stands for the picture.
    image_token: int
    # The layers that LoRA adapters change, as an alternation of the last parts of their names.
    adapted: str
    # Whether `config.json` does not say if the head is the table of embeddings: the weights do.
    weights_tell_tied_head: bool = False
    # Whether an adapter may bring a head of its own to a model in which the head is the table of embeddings.
    may_untie_head: bool = False
    # Whether an answer's first word begins with a space that is a part of its token.
    spaces_answers: bool = False
    # Whether its tokenizer falls back to pieces of one byte, `<0x00>` to `<0xFF>`.
    has_byte_pieces: bool = False
    # What its layers' names end with that transformers does not quantise.
    unquantised: str | None = None
    # Whether the torch engine can put a step into a CUDA graph.
    has_step_graphs: bool = False
