"""Fixtures of the tests of indexes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import blip2_chat
from blip2_chat.retriever import Retriever
from tests.support.batch import make_pictures
from tests.support.checkpoints import make_retriever


@pytest.fixture(scope="package")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint for retrieval."""
    return make_retriever(tmp_path_factory.mktemp("retriever") / "model", std=0.3)


@pytest.fixture(scope="package")
def retriever(tiny: Path) -> Iterator[Retriever]:
    running = blip2_chat.load_retriever(tiny, threads=1)
    yield running
    running.close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twelve pictures."""
    make_pictures(tmp_path / "photos", 12)
    return tmp_path / "photos"
