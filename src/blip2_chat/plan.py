"""What runs a model: which engine, at which precision, on which device, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What will run a checkpoint: chosen by the user, or by `choose` where the user said "auto"."""

    engine: str
    precision: str
    device: str
    reason: str

    def __str__(self) -> str:
        return f"the {self.engine} engine at {self.precision} on {self.device}: {self.reason}"
