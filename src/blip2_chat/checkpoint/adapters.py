"""LoRA adapters in model folders: they are not applied, and that is said."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from ..system.small_files import plain, read_json
from .safetensors_headers import is_adapter

_WAY_OUT = "merge it into its model (PEFT's merge_and_unload) and name the merged one"


def has_adapter(folder: Path) -> bool:
    """Whether PEFT saved an adapter there."""
    return any(is_adapter(path.name) for path in folder.iterdir())


def not_applied(folder: Path) -> str:
    """What to say of an adapter beside a whole model."""
    return f"{folder} also holds a LoRA adapter, which is not applied: answers are the model's without it; {_WAY_OUT}"


def alone(folder: Path, name: str) -> CheckpointError:
    """For a folder with an adapter and no model. `name` is what the user calls it."""
    path = folder / "adapter_config.json"
    raw = read_json(path) if path.exists() else None
    base = raw.get("base_model_name_or_path") if isinstance(raw, dict) else None
    of = f" of {plain(base)}" if isinstance(base, str) and base else ""
    return CheckpointError(
        f"{name} is a LoRA adapter{of}, and not a whole model; adapters are not applied: {_WAY_OUT}"
    )
