"""Checkpoints that are damaged, and how they are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.errors import CheckpointError
from tests.support.tensor_files import load_tensors, save_tensors

INDEX = "model.safetensors.index.json"
HEAD = "language_model.lm_head.weight"


def refusal(folder: Path) -> str:
    """The one line with which `inspect` refuses the folder."""
    with pytest.raises(CheckpointError) as caught:
        inspect(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def change_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Replaces the tensors of a checkpoint in one file by what `change` makes of them."""
    tensors = load_tensors(folder / "model.safetensors")
    change(tensors)
    save_tensors(folder / "model.safetensors", tensors)
