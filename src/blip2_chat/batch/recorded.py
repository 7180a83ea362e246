"""What a finished or stopped run recorded about itself: its sources, columns and settings."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from ..errors import Blip2ChatError
from .inputs.tables import pyarrow_parquet
from .storage import is_remote, reading


def recorded_settings(results: str) -> dict[str, Any]:
    """The settings of the run that wrote `results`: from the file itself (Parquet) or from the progress file
    next to it. Empty if neither has them; never raises."""
    for found in (_in_parquet(results), _in_progress(results)):
        if found:
            return found
    return {}


def _in_parquet(results: str) -> dict[str, Any]:
    if not results.lower().endswith(".parquet"):
        return {}
    with contextlib.suppress(OSError, ValueError, Blip2ChatError), reading(results) as file:
        metadata = pyarrow_parquet().ParquetFile(file).schema_arrow.metadata or {}
        return _as_settings(metadata.get(b"blip2_chat", b"{}"))
    return {}


def _in_progress(results: str) -> dict[str, Any]:
    path = Path(f"{results}.progress").absolute()
    if is_remote(results) or not path.is_file():
        return {}
    # Read-only, so that a report does not disturb a run, even one in progress.
    with contextlib.suppress(sqlite3.Error, ValueError):
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0)) as db:
            query = "SELECT name, value FROM about WHERE name IN ('settings', 'max_pixels')"
            found = dict(db.execute(query).fetchall())
        settings = _as_settings(found.get("settings", "{}"))
        return {**settings, "max_pixels": json.loads(found.get("max_pixels", "null"))} if settings else {}
    return {}


def _as_settings(text: str | bytes) -> dict[str, Any]:
    settings = json.loads(text)
    return settings if isinstance(settings, dict) else {}
