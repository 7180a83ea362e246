"""The official checkpoint layout: which tensors a model of a given shape has, and how many numbers they hold.

Everything here follows from the configuration alone: no file is read, nothing large is allocated.
"""

from __future__ import annotations

import re
from math import prod
from typing import Literal

from ..errors import CheckpointError
from .layout import HEAD, Shape
from .qformer_config import QFORMER_NORMS
from .retrieval_config import AnyConfig
from .text_config import LANGUAGE_MODELS

__all__ = [
    "HEAD",
    "PARTS",
    "QFORMER_NORMS",
    "Part",
    "Shape",
    "aliases",
    "count_parameters",
    "distinct_tensors",
    "expected_tensors",
    "is_unused",
    "part_of",
]

Part = Literal["vision", "qformer", "language_model"]
PARTS: tuple[Part, ...] = ("vision", "qformer", "language_model")

# Tensors that a checkpoint may have and a chat model does not use: the Q-Former's text branch where it reads no text,
# buffers that old versions stored, positions of T5's cross-attention.
_UNUSED = re.compile(
    r"embeddings\..*"
    r"|qformer\.embeddings\..*"
    r"|qformer\.encoder\.layer\.\d+\.(intermediate|output)\..*"
    r"|(vision|text)_projection\..*|itm_head\..*"
    r"|language_model\.decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
    r"|.*\.(position_ids|rotary_emb\.inv_freq)"
)

# Far above any real model; a config.json that claims millions of layers would fill the memory with names.
_MOST_LAYERS = 1024


def expected_tensors(config: AnyConfig) -> dict[str, Shape]:
    """Every tensor of the official layout by its name, with its shape.

    The Q-Former has its query branch only, unless it reads text: other checkpoints that were trained on texts hold
    more (`is_unused`). Names of one tensor (`aliases`) are all listed, although a file needs only one of them.
    """
    counts = config.layer_counts
    if not all(0 <= count <= _MOST_LAYERS for count in counts):
        raise CheckpointError(f"config.json has {max(counts, key=abs)} layers; no BLIP-2 model has")
    return dict(config.tensors())


def aliases(config: AnyConfig, tied_head: bool | None = None) -> tuple[str, ...]:
    """The names that stand for the language model's token embeddings, the official one first: a file holds at least
    one. Nothing for a model that has none.

    Safetensors files keep shared memory once, and which name survives depends on the version that wrote them.
    `tied_head` says whether the head is the embeddings; None: as the configuration has it. For T5 that is a
    guess from its generation (1.0 is tied, 1.1 and Flan are not), and a file that was read knows better.
    """
    text = config.text
    if text is None:
        return ()
    names, tied = LANGUAGE_MODELS[text.kind].embeddings, text.ties_head if tied_head is None else tied_head
    return (*names, HEAD) if tied else names


def is_unused(name: str, config: AnyConfig) -> bool:
    """Whether a checkpoint may hold this tensor beside `expected_tensors`."""
    if config.text is None and name.startswith(("language_model.", "language_projection.")):
        return True  # some are saved with the language model that their configuration has by default
    return _UNUSED.fullmatch(name) is not None


def part_of(name: str) -> Part:
    """The part a tensor belongs to. Query tokens and projection count with the Q-Former."""
    if name.startswith("vision_model."):
        return "vision"
    return "language_model" if name.startswith("language_model.") else "qformer"


def distinct_tensors(config: AnyConfig, tied_head: bool | None = None) -> dict[str, Shape]:
    """`expected_tensors` with aliased tensors once: what memory holds. `tied_head` as in `aliases`."""
    again = aliases(config, tied_head)[1:]
    return {name: shape for name, shape in expected_tensors(config).items() if name not in again}


def count_parameters(config: AnyConfig, tied_head: bool | None = None) -> dict[Part, int]:
    """Numbers held per part, aliased tensors counted once. `tied_head` as in `aliases`."""
    counts: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for name, shape in distinct_tensors(config, tied_head).items():
        counts[part_of(name)] += prod(shape)
    return counts
