"""Fixtures of the tests of checkpoints: folders in the official layout, whole, and copies to damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Official-layout folders, each made once: `made("opt")`, `made("t5", max_shard_size="40KB")`."""
    base = tmp_path_factory.mktemp("made")
    folders: dict[str, Path] = {}

    def make(family: str, **overrides: Any) -> Path:
        key = f"{family} {overrides}"
        if key not in folders:
            folders[key] = make_checkpoint(base / str(len(folders)), family, **overrides)
        return folders[key]

    return make


@pytest.fixture
def opt(made: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made("opt"), tmp_path / "opt"))


@pytest.fixture
def sharded(made: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made("opt", max_shard_size="100KB"), tmp_path / "sharded"))
