"""Fixtures of the tests of indexes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import blip2_chat
from blip2_chat.retriever import Retriever
from tests.support.batch import make_pictures


@pytest.fixture(scope="package")
def retriever(retrieval_checkpoint: Path) -> Iterator[Retriever]:
    running = blip2_chat.load_retriever(retrieval_checkpoint, threads=1)
    yield running
    running.close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twelve pictures."""
    make_pictures(tmp_path / "photos", 12)
    return tmp_path / "photos"
