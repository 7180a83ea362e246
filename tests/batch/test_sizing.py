"""How many pictures a run encodes and writes about at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from blip2_chat.batch.captioner import Captioner
from blip2_chat.batch.sizing import BatchSize
from blip2_chat.model import Model
from tests.support.batch import go, make_pictures, options, rows_of


def test_a_batch_that_does_not_fit_is_halved(model: Model, tmp_path: Path) -> None:
    make_pictures(tmp_path / "photos", 9)
    go(model, options(tmp_path / "photos", tmp_path / "a.jsonl"))
    write, sizes = Captioner.write, []

    def starving(self: Captioner, vectors: Any, digests: Sequence[str]) -> Any:
        sizes.append(len(digests))
        if len(digests) > 2:
            raise RuntimeError("std::bad_alloc")
        return write(self, vectors, digests)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Captioner, "write", starving)
        go(model, options(tmp_path / "photos", tmp_path / "b.jsonl"))
    assert rows_of(tmp_path / "a.jsonl") == rows_of(tmp_path / "b.jsonl")
    assert sizes[0] == 4 and max(sizes[3:]) <= 2, "it learnt"


def test_a_picture_may_be_there_a_moment_after_the_wait_for_it(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path / "photos", 3)
    result = Future.result

    def late(self: Future[Any], timeout: float | None = None) -> Any:
        found = result(self)
        if timeout is not None:
            raise futures.TimeoutError  # the wait has ended, and whoever looks now finds the picture
        return found

    monkeypatch.setattr(Future, "result", late)
    assert go(model, options(tmp_path / "photos", tmp_path / "c.jsonl"))[0].done == 3


def test_batches_grow_while_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip2_chat.batch.sizing.available_memory", lambda: 4 * 1000)
    grows = BatchSize(bytes_per_picture=10)
    assert (grows.size, grows.most) == (4, 64)
    for _ in range(20):
        grows.measured(grows.size, 1.0)  # a batch takes as long, however large
    assert grows.size == 64
    constant = BatchSize(10)
    for _ in range(20):
        constant.measured(constant.size, 0.1 * constant.size)
    assert constant.size == 4
    slow = BatchSize(10)
    for _ in range(20):
        slow.measured(slow.size, 9 * slow.size**0.8)
    assert slow.size == 8, "16 would take longer than a minute, and nobody waits that long for Ctrl-C"
    assert BatchSize(100).most == 10 and BatchSize(10**9).size == 1
