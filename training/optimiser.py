"""Muon for the weight matrices inside the layers, AdamW for everything else.

Muon learns from fewer pictures than AdamW, but orthogonalising every matrix costs as much as a good
part of a step. The processes of a run therefore share the matrices out: each updates its own and hands
the result to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from transformers import Blip2ForConditionalGeneration


def layer_matrices(model: Blip2ForConditionalGeneration) -> list[nn.Parameter]:
    """The matrices of the transformer layers and of the projection between the parts, largest first."""
    parts: tuple[nn.Module, ...] = (
        model.vision_model.encoder,
        model.qformer.encoder,
        model.language_projection,
        model.language_model.model.decoder.layers,
    )
    matrices = [parameter for part in parts for parameter in part.parameters() if parameter.ndim == 2]
    return sorted(matrices, key=lambda parameter: -parameter.numel())


def orthogonalised(matrix: Tensor) -> Tensor:
    """Muon's five Newton-Schulz steps, in the matrix's own precision.

    ``torch.optim.Muon`` always goes to bfloat16 here, which CPUs without such instructions emulate: it took
    most of a step.
    """
    upright = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if upright else matrix
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(5):
        square = found @ found.T
        found = torch.addmm(
            found, torch.addmm(square, square, square, beta=-4.775, alpha=2.0315), found, beta=3.4445
        )
    return found.T if upright else found


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, of the size of AdamW's updates (Jordan 2024; Liu et al. 2025)."""

    def __init__(self, matrices: Sequence[nn.Parameter], decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": 1e-3, "decay": decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                kept = self.state[matrix]
                if not kept:
                    kept["momentum"] = torch.zeros_like(matrix)
                kept["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalised(matrix.grad.lerp(kept["momentum"], group["momentum"]))
                matrix.mul_(1 - group["lr"] * group["decay"])
                matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


class SharedOptimiser:
    """Both optimisers behind one ``step``, with the work on matrices shared between processes."""

    def __init__(
        self,
        learner: nn.Module,
        matrices: list[nn.Parameter],
        decay: float,
        matrix_decay: float,
        rank: int,
        processes: int,
    ) -> None:
        self.shares = [matrices[other::processes] for other in range(processes)]
        self.rank, self.processes = rank, processes
        inside = {id(parameter) for parameter in matrices}
        rest = [parameter for parameter in learner.parameters() if id(parameter) not in inside]
        wide = [parameter for parameter in rest if parameter.ndim >= 2]
        thin = [parameter for parameter in rest if parameter.ndim < 2]
        self.adam = torch.optim.AdamW(
            [{"params": wide, "weight_decay": decay}, {"params": thin, "weight_decay": 0.0}],
            betas=(0.9, 0.98),
            fused=True,
        )
        self.muon = Muon(self.shares[rank], matrix_decay)

    def set_rate(self, rate: float, matrix_rate: float) -> None:
        """AdamW's learning rate and Muon's."""
        for optimiser, value in ((self.adam, rate), (self.muon, matrix_rate)):
            for group in optimiser.param_groups:
                group["lr"] = value

    @torch.no_grad()
    def step(self) -> None:
        self.adam.step()
        self.muon.step()
        if self.processes == 1:
            return
        for owner, share in enumerate(self.shares):
            flat = torch.cat([parameter.flatten() for parameter in share])
            distributed.broadcast(flat, owner)
            if owner != self.rank:
                self._take(flat, share)

    @staticmethod
    def _take(flat: Tensor, share: list[nn.Parameter]) -> None:
        start = 0
        for parameter in share:
            parameter.copy_(flat[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "muon": self.muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        self.muon.load_state_dict(state["muon"])
