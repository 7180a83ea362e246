"""Fixtures of the tests of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blip2_chat.batch.captioner import Captioner
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.conversion.convert import convert
from blip2_chat.model import Model
from tests.support.batch import load_folder


@pytest.fixture(scope="session")
def tiny(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint, converted."""
    out = tmp_path_factory.mktemp("tiny") / "model"
    return convert(inspect(checkpoint("opt", std=0.3)), out, "fp32", name="tiny")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Iterator[Model]:
    running = load_folder(tiny)
    yield running
    running.close()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of the pixels that a model wrote about."""
    digests: list[str] = []
    write = Captioner.write

    def told(self: Captioner, vectors: object, of: list[str]) -> object:
        digests.extend(of)
        return write(self, vectors, of)  # type: ignore[arg-type]

    monkeypatch.setattr(Captioner, "write", told)
    return digests
