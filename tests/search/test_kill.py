"""Indexing that is killed at any moment: nothing that was reported is lost, nothing is done twice."""

from __future__ import annotations

from tests.support.extras import require

require("test-search")

import shutil
from pathlib import Path

import numpy as np
import pytest

from blip2_chat.retriever import Retriever
from blip2_chat.search.indexing import IndexOptions
from blip2_chat.search.store import Store
from tests.support.batch import make_pictures
from tests.support.killing import Killed
from tests.support.search import contents, fork_index, indexed


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_killed_at_random_moments(
    retrieval_checkpoint: Path, retriever: Retriever, tmp_path: Path, kills: int
) -> None:
    photos, out, told = tmp_path / "photos", tmp_path / "killed.index", tmp_path / "told.txt"
    count = 100
    pictures = make_pictures(photos, count)
    (photos / "bad.png").write_bytes(b"no picture")
    shutil.copy(pictures[5], photos / "p0005-again.png")
    options = IndexOptions(str(out), (photos,), batch_size=3)
    killed = Killed(told, lambda: fork_index(retrieval_checkpoint, options, told))
    for number in range(kills):
        killed.once(early=number % 4 == 1)
        reported = killed.reported
        if len(reported) >= count:  # quicker than the kill: there has to be something left to do
            make_pictures(photos, 100, first=count)
            count += 100
        kept = {one.path for one in Store.open(str(out)).entries()} if reported else set()
        assert set(reported) <= kept, "reported, and lost"
    assert killed.in_the_middle >= kills // 2, "most kills came before anything was done"
    indexed(retriever, options, told)
    indexed(retriever, IndexOptions(str(tmp_path / "undisturbed.index"), (photos,), batch_size=3))
    resumed, undisturbed = contents(out), contents(tmp_path / "undisturbed.index")
    assert resumed.keys() == undisturbed.keys() and len(resumed) == count + 2
    for path, entry in resumed.items():
        other = undisturbed[path]
        assert (entry.digest, entry.error, entry.stamp) == (other.digest, other.error, other.stamp)
        if other.vectors is not None:
            assert entry.vectors is not None
            np.testing.assert_allclose(entry.vectors, other.vectors, rtol=0, atol=1e-3)
    killed.require_nothing_twice()
