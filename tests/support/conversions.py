"""Conversions of checkpoints in tests: made, counted, spoilt, and what they leave behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blip2_chat.checkpoint.inspect import Checkpoint, inspect
from blip2_chat.conversion.convert import converted
from blip2_chat.engines.onnx import convert as engine

Make = Callable[..., Path]


def keep(folder: Path, precision: str = "int8", **more: Any) -> Path:
    """The folder of the conversion that loading it makes or finds."""
    return converted(inspect(folder), precision, name=str(folder), **more).folder


def remains(folder: Path) -> list[str]:
    """What lies in the folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def count_conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The targets of the conversions that are made from here on."""
    real, targets = engine.convert, []

    def counting(checkpoint: Checkpoint, target: Path, *arguments: Any, **keywords: Any) -> None:
        targets.append(target)
        real(checkpoint, target, *arguments, **keywords)

    monkeypatch.setattr(engine, "convert", counting)
    return targets


def spoil(path: Path, offset: int) -> None:
    """Changes one byte, and neither size nor modification time."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
