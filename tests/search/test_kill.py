"""Indexing that is killed at any moment: nothing that was reported is lost, nothing is done twice."""

from __future__ import annotations

from tests.support.extras import require

require("test-search")

import random
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from blip2_chat.retriever import Retriever
from blip2_chat.search.indexing import IndexOptions
from blip2_chat.search.store import Store
from tests.support.batch import make_pictures
from tests.support.search import contents, fork_index, indexed
from tests.support.waiting import wait_until


@pytest.mark.timeout(900)
def test_killed_at_random_moments(tiny: Path, retriever: Retriever, tmp_path: Path) -> None:
    photos, out, told = tmp_path / "photos", tmp_path / "killed.index", tmp_path / "told.txt"
    count = 100
    pictures = make_pictures(photos, count)
    (photos / "bad.png").write_bytes(b"no picture")
    shutil.copy(pictures[5], photos / "p0005-again.png")
    told.touch()
    options = IndexOptions(str(out), (photos,), batch_size=3)
    draw = random.Random(1)
    middle = 0
    for number in range(8):
        before = told.read_text(encoding="utf-8").count("\n")
        process = fork_index(tiny, options, told)
        if number % 4 == 0:
            time.sleep(draw.uniform(0, 0.3))
        else:
            assert wait_until(
                lambda before=before, process=process: (
                    told.read_text(encoding="utf-8").count("\n") > before or not process.is_alive()
                ),
                240,
            ), "it neither reports anything nor ends"
            time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode <= 0, "it ended by itself, with an error"
        reported = told.read_text(encoding="utf-8").splitlines()
        middle += len(reported) > before
        if len(reported) >= count:  # quicker than the kill: there has to be something left to do
            make_pictures(photos, 100, first=count)
            count += 100
        kept = {one.path for one in Store.open(str(out)).entries()} if reported else set()
        assert set(reported) <= kept, "reported, and lost"
    assert middle >= 3, "most kills came before anything was done"
    indexed(retriever, options, told)
    indexed(retriever, IndexOptions(str(tmp_path / "undisturbed.index"), (photos,), batch_size=3))
    killed, undisturbed = contents(out), contents(tmp_path / "undisturbed.index")
    assert killed.keys() == undisturbed.keys() and len(killed) == count + 2
    for path, entry in killed.items():
        other = undisturbed[path]
        assert (entry.digest, entry.error, entry.stamp) == (other.digest, other.error, other.stamp)
        if other.vectors is not None:
            assert entry.vectors is not None
            np.testing.assert_allclose(entry.vectors, other.vectors, rtol=0, atol=1e-3)
    assert max(Counter(told.read_text(encoding="utf-8").splitlines()).values()) == 1, "done twice"
