"""Throw-away heads that teach the picture side directly, in the spirit of BLIP-2's staged training.

The language loss alone takes very long to tell the vision encoder what to look for. These heads say it
at once: which thing covers each patch, of which colour it is and which it is in the order from left to
right and from top to bottom, and, in the first query vectors, which things of which colours there are
from left to right and from top to bottom. They are not part of the shipped model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from .backgrounds import COLOURS
from .catalog import KINDS
from .scenes import MAX_THINGS

NONE = 0  # the class of an empty slot; kinds follow


@dataclass(frozen=True)
class SceneTargets:
    """The truth of B pictures of P patches, as class numbers (-100: not asked) but for ``places``.

    patches (B, P), ranks (B, 2, P), slots (B, 8), places (B, 8, 3) in 0..1, colour and count (B,), and the
    colours of the things: patch_tints (B, P), slot_tints (B, 8).
    """

    patches: Tensor
    ranks: Tensor
    slots: Tensor
    places: Tensor
    colour: Tensor
    count: Tensor
    patch_tints: Tensor
    slot_tints: Tensor

    def at_patches(self, kept: Tensor) -> SceneTargets:
        """The truth of the patches ``kept`` (B, K) alone."""
        return replace(
            self,
            patches=self.patches.gather(1, kept),
            ranks=self.ranks.gather(2, kept.unsqueeze(1).expand(-1, 2, -1)),
            patch_tints=self.patch_tints.gather(1, kept),
        )


class SceneHeads(nn.Module):
    """Reads patches, slots, background colour and count off the model's inner vectors."""

    def __init__(self, vision_width: int, qformer_width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(vision_width, len(KINDS) + 1)
        self.patch_colour = nn.Linear(vision_width, len(COLOURS))
        self.slot = nn.Linear(qformer_width, len(KINDS) + 1)
        self.place = nn.Linear(qformer_width, 3)
        self.colour = nn.Linear(qformer_width, len(COLOURS))
        self.count = nn.Linear(qformer_width, MAX_THINGS + 1)
        self.patch_tint = nn.Linear(vision_width, len(COLOURS))
        self.slot_tint = nn.Linear(qformer_width, len(COLOURS))
        self.rank = nn.Linear(vision_width, 2 * MAX_THINGS)

    def forward(
        self, vision: Tensor, queries: Tensor, truth: SceneTargets
    ) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of the losses and the accuracies for the log."""
        patch_logits = self.patch(vision[:, 1:]).float()
        patch_loss = functional.cross_entropy(
            patch_logits.flatten(0, 1), truth.patches.flatten(), label_smoothing=0.05
        )
        rank_logits = self.rank(vision[:, 1:]).float().unflatten(-1, (2, MAX_THINGS)).transpose(1, 2)
        rank_loss = functional.cross_entropy(rank_logits.flatten(0, 2), truth.ranks.flatten())
        colour_loss = functional.cross_entropy(self.patch_colour(vision[:, 0]).float(), truth.colour)
        slots = queries[:, : 2 * MAX_THINGS]
        slot_logits = self.slot(slots).float()
        slot_loss = functional.cross_entropy(
            slot_logits.flatten(0, 1), truth.slots.flatten(), label_smoothing=0.05
        )
        taken = (truth.slots != NONE).unsqueeze(-1).float()
        place_loss = ((self.place(slots).float() - truth.places).abs() * taken).sum() / (3 * taken.sum() + 1)
        tint_logits = self.slot_tint(slots).float()
        tint_loss = functional.cross_entropy(
            self.patch_tint(vision[:, 1:]).float().flatten(0, 1), truth.patch_tints.flatten()
        ) + functional.cross_entropy(tint_logits.flatten(0, 1), truth.slot_tints.flatten())
        rest = queries[:, 2 * MAX_THINGS]
        colour_logits, count_logits = self.colour(rest).float(), self.count(rest).float()
        rest_loss = functional.cross_entropy(colour_logits, truth.colour) + functional.cross_entropy(
            count_logits, truth.count
        )
        loss = (
            2.0 * patch_loss
            + rank_loss
            + 0.2 * colour_loss
            + 1.5 * slot_loss
            + 2.0 * place_loss
            + 0.3 * rest_loss
            + 0.3 * tint_loss
        )
        with torch.no_grad():
            on_things = truth.patches > 0
            shown = {
                "patch": float((patch_logits.argmax(-1) == truth.patches)[on_things].float().mean()),
                "rank": float((rank_logits.argmax(-1) == truth.ranks)[truth.ranks >= 0].float().mean()),
                "slot": float((slot_logits.argmax(-1) == truth.slots)[truth.slots != NONE].float().mean()),
                "tint": float(
                    (tint_logits.argmax(-1) == truth.slot_tints)[truth.slot_tints >= 0].float().mean()
                ),
                "colour": float((colour_logits.argmax(-1) == truth.colour).float().mean()),
                "count": float((count_logits.argmax(-1) == truth.count).float().mean()),
            }
        return loss, shown
