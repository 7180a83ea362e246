"""Fixtures of the tests of conversion."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blip2_chat.conversion import convert as conversion
from tests.support.conversions import Make


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, of this test alone."""
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversion, "_temporary", {})
    return tmp_path / "cache"


@pytest.fixture
def source(checkpoint: Make, tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint(), tmp_path / "model"))
