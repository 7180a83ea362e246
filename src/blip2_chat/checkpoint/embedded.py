"""The model inside the package: its name, and where it lies."""

from __future__ import annotations

from pathlib import Path

EMBEDDED = "demo"
FOLDER = Path(__file__).parents[1] / "demo"
SAMPLES = FOLDER / "samples"
