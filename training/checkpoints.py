"""The checkpoints of a run: one folder for each, complete or ignored, so that it may be killed at any time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

# a long run keeps its state outside of any checkout
RUNS = Path(os.environ.get("BLIP2_TRAINING_RUNS") or Path(__file__).parent / "runs")
WEIGHTS = "weights.pt"
KEEP = 2


def optimiser_file(rank: int) -> str:
    """Every process keeps its own share of the optimiser."""
    return f"optimiser-{rank}.pt"


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Written beside and moved into place: under its name there is a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def step_folder(run: Path, step: int) -> Path:
    return run / f"step-{step:07d}"


def complete(run: Path) -> list[Path]:
    """The checkpoint folders that have the weights and every process's optimiser, oldest first."""
    found = []
    for folder in sorted(run.glob("step-*")):
        if (folder / WEIGHTS).exists():
            processes = torch.load(folder / WEIGHTS, mmap=True, weights_only=True)["processes"]
            if all((folder / optimiser_file(rank)).exists() for rank in range(processes)):
                found.append(folder)
    return found


def remove_old(run: Path) -> None:
    """Keep the newest complete checkpoints, and what is still being written."""
    done = complete(run)
    if not done:
        return
    kept = done[-KEEP:]
    for folder in run.glob("step-*"):
        if folder not in kept and folder < kept[-1]:
            shutil.rmtree(folder)
