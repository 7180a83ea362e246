"""Compares the memory that a model needs with that of the machine, before anything is loaded. All sizes are in
bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Literal

from ..errors import NotEnoughMemoryError, Suggestion
from ..system.memory import available_memory
from .catalogue import KNOWN, KNOWN_RETRIEVERS, KnownCheckpoint
from .retrieval_config import AnyConfig
from .tensor_names import HEAD, aliases, count_parameters, distinct_tensors, part_of

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
EngineName = Literal["onnx", "torch"]


@dataclass(frozen=True)
class Costs:
    """The constants of `needed` for one engine: the only numbers to calibrate against measurements."""

    # Bytes per number, by precision: of the matrices of the picture encoder and of the language model, of the
    # head, of tables that are looked up (embeddings, positions) and of the KV cache. Of 8 and 4 bits, the
    # scales of their blocks included.
    picture: dict[str, float]
    # The same of a picture encoder without a language model, of which it alone is quantised.
    picture_alone: dict[str, float]
    matrix: dict[str, float]
    head: dict[str, float]
    table: dict[str, float]
    cache: dict[str, float]
    # The same of the second matrix in T5's feed-forward layers, where it is not one like the others.
    wo: dict[str, float] | None
    # Whether the embeddings of words and positions stay on disk, a few rows of them read. A head tied to them is
    # then held apart.
    maps_embeddings: bool
    # What loading holds beside the weights at its peak, as a share of them.
    loading: float
    # The interpreter with the engine's libraries, before any weight.
    runtime: int
    # From the most precise to the smallest: what `best_precision` and the advice choose from.
    precisions: tuple[Precision, ...]


COSTS: dict[str, Costs] = {
    # As engines/onnx/convert.py stores them: int8 per column for pictures, whatever the precision; blocks of
    # 128 (int4: 256) with a scale and a sum of 4 bytes each for the language model; a head of 8 bits.
    "onnx": Costs(
        picture={"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int4": 1},
        picture_alone={"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int4": 0.5 + 8 / 128},
        matrix={"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1 + 8 / 128, "int4": 0.5 + 8 / 256},
        head={"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1 + 8 / 128, "int4": 1 + 8 / 256},
        table={"fp32": 4, "fp16": 4, "bf16": 4, "int8": 4, "int4": 4},
        cache={"fp32": 4, "fp16": 4, "bf16": 4, "int8": 4, "int4": 4},
        wo=None,
        maps_embeddings=True,
        loading=0.0,
        runtime=100_000_000,
        # ONNX Runtime has no half-precision matrix products on a CPU: it would compute in fp32, slowly.
        precisions=("fp32", "int8", "int4"),
    ),
    # bitsandbytes: int8 has a scale per row, nf4 a 4-byte one per 64; tables and head keep the numbers that are
    # computed with, 4 bytes on a CPU and half of that on a GPU. T5's `wo` is not quantised.
    "torch": Costs(
        picture={"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int4": 0.5 + 4 / 64},
        picture_alone={"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int4": 0.5 + 4 / 64},
        matrix={"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int4": 0.5 + 4 / 64},
        head={"fp32": 4, "fp16": 2, "bf16": 2, "int8": 4, "int4": 4},
        table={"fp32": 4, "fp16": 2, "bf16": 2, "int8": 4, "int4": 4},
        cache={"fp32": 4, "fp16": 2, "bf16": 2, "int8": 4, "int4": 4},
        wo={"fp32": 4, "fp16": 2, "bf16": 2, "int8": 2, "int4": 2},
        maps_embeddings=False,
        loading=0.0,
        runtime=450_000_000,
        # Of the two 16-bit kinds bf16: it has the range of fp32, which T5's activations need.
        precisions=("fp32", "bf16", "int8", "int4"),
    ),
}

# A conversation of usual length, the picture's tokens included. Beams and batches multiply its cache;
# they are the user's choice at run time, not the checkpoint's.
_TOKENS = 288
# Pictures that a retrieval model matches with a text in one batch.
MATCHED_AT_ONCE = 16
# Models with fewer parameters run at full precision anywhere, because less would gain nothing.
_SMALL = 200_000_000
# "Comfortably" leaves this share of the available memory to everything else on the machine.
_SPARE = 0.2
_TABLES = ("embed_positions", "position_embedding", "class_embedding", "relative_attention_bias")
# Tables of which a run looks up a few rows; where `maps_embeddings`, they stay on disk.
_LOOKED_UP = ("embed_positions", "word_embeddings")


@cache
def needed(config: AnyConfig, precision: str, engine: str) -> int:
    """Estimated peak of the whole process, in bytes, for one picture and a conversation of usual length.

    weights at the precision + what loading holds beside them + the largest activations + KV cache + runtime.
    """
    costs = COSTS[engine]
    if precision not in costs.matrix:
        raise ValueError(f"precision {precision!r}: one of {', '.join(costs.matrix)}")
    weights = _weights(config, precision, costs) * (1 + costs.loading)
    cache = config.cached_numbers * _TOKENS * costs.cache[precision]
    return int(weights + _activations(config) + cache + costs.runtime)


def _weights(config: AnyConfig, precision: str, costs: Costs) -> float:
    embeddings, *others = aliases(config) or ("",)
    picture = costs.picture_alone if config.text is None else costs.picture
    total = 0.0
    for name, shape in distinct_tensors(config).items():
        part = part_of(name)
        if costs.maps_embeddings and any(table in name for table in _LOOKED_UP):
            each = 0.0
        elif part == "qformer" or len(shape) == 1:
            # The Q-Former with its query tokens, all norms and biases stay fp32 at any precision: cast below
            # it, captions change.
            each = 4.0
        elif name == embeddings:
            if not costs.maps_embeddings:
                each = costs.table[precision]
            else:
                each = costs.head[precision] if HEAD in others else 0.0
        elif name == HEAD:
            each = costs.head[precision]
        elif any(table in name for table in _TABLES):
            each = costs.table[precision]
        elif costs.wo is not None and name.endswith(".wo.weight"):
            each = costs.wo[precision]
        else:
            each = (picture if part == "vision" else costs.matrix)[precision]
        total += prod(shape) * each
    return total


def _activations(config: AnyConfig) -> int:
    """The peak, in fp32: a layer of the picture encoder, or of the language model on the prompt."""
    vision = config.vision

    def layer(tokens: int, width: int, inner: int, heads: int) -> int:
        # Input, its norm, q, k, v and the sum; the feed-forward before and after its activation; the scores
        # before and after the softmax.
        return 4 * (6 * tokens * width + 2 * tokens * inner + 2 * heads * tokens**2)

    picture = layer(
        vision.num_positions, vision.hidden_size, vision.intermediate_size, vision.num_attention_heads
    )
    text = config.text
    if text is None:
        # The Q-Former reads texts with pictures in batches, whose features are held beside.
        return picture + 4 * MATCHED_AT_ONCE * vision.num_positions * vision.hidden_size
    prompt = layer(_TOKENS, text.hidden_size, text.feed_forward_numbers, text.num_attention_heads)
    return max(picture, prompt + 4 * text.vocab_size)


def is_small(config: AnyConfig) -> bool:
    """Whether less than full precision would gain nothing."""
    return sum(count_parameters(config).values()) < _SMALL


def best_precision(
    config: AnyConfig, engine: str, available: int, choices: Sequence[Precision] | None = None
) -> Precision:
    """What `precision="auto"` means on a machine with `available` bytes.

    Small models: fp32. Otherwise the most precise that fits comfortably, with one exception: the onnx engine
    starts at int8, because on a CPU every answer token reads all weights once, so that a quarter of the bytes
    is several times the speed, at nearly the same answers. When nothing fits comfortably, the most precise
    that fits at all; when nothing does, the smallest, which `require_fit` then refuses with the numbers.
    `choices` are other candidates than the engine's on a CPU, the most precise first.
    """
    if is_small(config):
        return "fp32"
    if choices is None:
        choices = COSTS[engine].precisions
        if engine == "onnx":
            choices = choices[choices.index("int8") :]
    for limit in (available * (1 - _SPARE), available):
        for precision in choices:
            if needed(config, precision, engine) <= limit:
                return precision
    return choices[-1]


def require_fit(
    config: AnyConfig, precision: str, engine: str, *, available: int | None = None, name: str
) -> None:
    """Raises `NotEnoughMemoryError` when the model would not fit, with a suggestion of what would.

    `available` is in bytes (None: this machine's memory; for a model on a GPU, give the GPU's).
    `name` is how the user called the model.
    """
    if available is None:
        available = available_memory()
    size = needed(config, precision, engine)
    if size <= available:
        return
    instead = suggestion(config, engine, available, name)
    raise NotEnoughMemoryError(name, precision, engine, size, available, instead)


def suggestion(config: AnyConfig, engine: str, available: int, name: str) -> Suggestion | None:
    """What fits instead: a precision of this or the other engine, or another official checkpoint."""
    engines = (engine, *(other for other in COSTS if other != engine))
    for one in engines:
        fitting = _most_precise(config, one, available)
        if fitting:
            return Suggestion(name, fitting, one, needed(config, fitting, one))
    # The largest answers best. Of the same picture size: captioning variants for those who asked for one; and those
    # that follow instructions first for those who asked for one, and last for others.
    alike = [known for known in _official(config) if known.image_size == config.vision.image_size]
    reads = config.reads_instruction
    alike.sort(key=lambda known: (known.config.reads_instruction != reads, -known.parameters))
    for one in engines:
        for known in alike:
            fitting = _most_precise(known.config, one, available)
            if fitting:
                return Suggestion(known.name, fitting, one, needed(known.config, fitting, one))
    return None


def _official(config: AnyConfig) -> Sequence[KnownCheckpoint[AnyConfig]]:
    """Those of its kind: that chat, or that match."""
    return KNOWN_RETRIEVERS if config.text is None else KNOWN


def _most_precise(config: AnyConfig, engine: str, available: int) -> Precision | None:
    fits = (one for one in COSTS[engine].precisions if needed(config, one, engine) <= available)
    return next(fits, None)
