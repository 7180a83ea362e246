"""What a picture shows, or a description says, as a vector of yes and no: a dense signal beside the contrastive loss.

A contrastive loss over a hundred pairs tells little about which of 57 kinds a vector should hold. So both branches
also learn to name, through one shared linear reading, the kinds with their least numbers, the colours of things, and
the background. What the same words and things mean is then the same direction from the first hundred steps on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .backgrounds import COLOURS
from .catalog import KINDS
from .descriptions import Described, Description
from .scenes import MAX_THINGS

COUNT = MAX_THINGS * len(KINDS) + 2 * len(COLOURS)


def of_pictures(truths: Sequence[Described]) -> Tensor:
    """(B, COUNT), float32."""
    return torch.stack([_vector(one.counts.items(), one.tints.values(), one.ground) for one in truths])


def of_texts(texts: Sequence[Description]) -> Tensor:
    """(N, COUNT), float32: what is said, which may be less than what is shown."""
    return torch.stack(
        [
            _vector(
                ((kind, number) for kind, number, _ in one.parts),
                (tint for _, _, tint in one.parts if tint is not None),
                one.ground,
            )
            for one in texts
        ]
    )


def _vector(counts: Iterable[tuple[int, int]], tints: Iterable[int], ground: int | None) -> Tensor:
    found = torch.zeros(COUNT)
    for kind, number in counts:
        found[kind * MAX_THINGS : kind * MAX_THINGS + number] = 1  # "at least one", "at least two", ...
    colours = MAX_THINGS * len(KINDS)
    for tint in tints:
        found[colours + tint] = 1
    if ground is not None:
        found[colours + len(COLOURS) + ground] = 1
    return found


class Reading(nn.Module):
    """The shared linear reading of vectors of length one, (..., E) → (..., COUNT) logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(functional.normalize(torch.randn(COUNT, width), dim=-1))
        self.bias = nn.Parameter(torch.full((COUNT,), -4.0))

    def forward(self, vectors: Tensor) -> Tensor:
        return 14 * vectors @ self.directions.T + self.bias

    def loss(self, vectors: Tensor, truth: Tensor) -> Tensor:
        """Mean over vectors of the summed binary cross-entropy."""
        logits = self(vectors)
        wanted = truth if vectors.ndim == 2 else truth[:, None].expand_as(logits)
        return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1).mean()
