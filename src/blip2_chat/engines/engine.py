"""The protocol that every runtime satisfies; `generation/` knows nothing else of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.config import ModelConfig

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class State(Protocol):
    """What a language model keeps of the sequences it has read: B rows, one KV cache each."""

    @property
    def tokens(self) -> list[list[int]]:
        """Per row the text token ids in the decoder's KV cache: in a decoder-only model the prompt and what followed
        it (picture tokens not counted), for T5 what followed the start token (the encoder's prompt not counted)."""

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes; what a bounded cache of states counts."""

    def reusable(self, prompt: Sequence[int]) -> int | None:
        """How many of a prompt's first tokens `prefill` need not read again when it is given this state of one
        row, besides the picture (so 0 saves something); None when it would have to read everything."""

    def reorder(self, rows: Sequence[int]) -> None:
        """Row i becomes a copy of the old row `rows[i]`; rows may repeat, vanish, or grow in number."""

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` of each row's `tokens`."""

    def append(self, other: State) -> None:
        """Takes over the rows of another state of the same engine, after its own."""

    def take(self, rows: Sequence[int], length: int | None = None) -> State:
        """Copies of some rows, as a state of their own, of their first `length` tokens only if it is given; this
        one stays as it is."""


class Engine(Protocol):
    """One loaded model. Not thread-safe: one caller at a time."""

    config: ModelConfig
    name: str  # "onnx" or "torch"
    precision: str  # "fp32", "fp16", "bf16", "int8", "int4"
    device: str  # "cpu", "cuda", ...

    def encode_image(self, pixels: Floats) -> Floats:
        """float32 pixels [B,3,H,W] -> what does not depend on the question: query vectors [B,Q,D] (D is the
        language model's width), or, where the Q-Former reads the instruction, the picture encoder's features
        [B,T,W]."""

    def query(self, pictures: Floats, instructions: Sequence[Sequence[int]]) -> Floats:
        """The output of `encode_image` for B pictures -> query vectors [B,Q,D].

        `instructions`: B rows of the Q-Former's token ids, each at least one. Where the Q-Former does not read
        instructions, `encode_image` has already made the vectors, and they are returned unchanged.
        """

    def prefill(
        self, query_vectors: Floats, token_ids: Sequence[Sequence[int]], state: State | None = None
    ) -> tuple[State, Floats]:
        """Reads whole prompts and returns the logits [B,V] after each row's last token.

        `query_vectors` [B,Q,D]; `token_ids` B rows of any lengths, each at least one token. With a `state`
        of the same picture and the same B, the longest common prefix of its tokens with `token_ids` is
        kept and only the rest is computed; the state given is used up. An encoder-decoder model returns the
        logits after its decoder's start token; its encoder reads both ways, so it reuses a state only when
        the whole prompt is the same.
        """

    def step(self, state: State, token_ids: Sequence[int]) -> Floats:
        """Appends one token to each of the state's B rows -> logits [B,V]."""

    def close(self) -> None:
        """Frees the model's memory."""


@dataclass(frozen=True)
class Given:
    """An answer that is given, after a prompt: token ids, without an end token. `parts` are slices of the answer."""

    prompt: Sequence[int]
    answer: Sequence[int]
    parts: Sequence[slice]
    instruction: Sequence[int] = ()


@runtime_checkable
class Inspectable(Protocol):
    """What an engine has that can also be looked into: from where in the picture [1,3,H,W] an answer came.

    Patches are the picture encoder's, row by row. Whoever calls computes nothing else meanwhile.
    """

    def attention(self, pixels: Floats, given: Given) -> Floats:
        """The language model's attention from each part of the answer to the query vectors (mean over layers, heads
        and tokens; of an encoder-decoder model the cross-attention), times the Q-Former's attention from there to
        the patches (last layer that looks at the picture, mean over heads) -> [parts, patches]."""

    def gradient(self, pixels: Floats, given: Given) -> Iterator[tuple[int, int, Floats]]:
        """Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) of each part's log-probability, on the
        picture encoder's features, from all zeros -> (points done, points in all, [parts, patches] in nats) as
        they come; the last is the result."""


def require_instructions(instructions: Sequence[Sequence[int]], pictures: int) -> None:
    """`ValueError` unless there is an instruction of at least one token for each picture."""
    if len(instructions) != pictures or not all(instructions):
        raise ValueError(f"{pictures} pictures and {len(instructions)} instructions: each picture needs one")


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of leading tokens that two sequences share."""
    same = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        same += 1
    return same
