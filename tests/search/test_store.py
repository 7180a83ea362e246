"""The store finds what numpy finds, and every write of it is whole."""

from __future__ import annotations

from tests.support.extras import require

require("test-search")

from pathlib import Path

import numpy as np
import pytest

from blip2_chat.batch.errors import RunError
from blip2_chat.search.store import About, Entry, Maker, Store
from tests.support.search import max_sim

QUERIES, SIZE = 4, 16
MAKER = Maker("tiny", "onnx", "fp32", "0" * 64, QUERIES, SIZE, (3, 8))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    rng = np.random.default_rng(0)
    return [
        Entry(
            f"k{n}",
            f"p{n}.png",
            digest=f"{n:064}",
            width=4,
            height=3,
            vectors=unit(rng.standard_normal((4, 16))),
        )
        for n in range(300)
    ]


@pytest.fixture
def store(tmp_path: Path, entries: list[Entry]) -> Store:
    made = Store.create(str(tmp_path / "x.index"), About(MAKER, ("photos",)))
    for first in range(0, 300, 100):
        made.put(entries[first : first + 100], replacing=False)
    made.put([Entry("bad", "bad.png", error="bad.png is damaged")], replacing=False)
    return made


@pytest.mark.parametrize("number", [1, QUERIES])
def test_nearest_is_the_max_sim_of_numpy(store: Store, entries: list[Entry], number: int) -> None:
    queries = unit(np.random.default_rng(number).standard_normal((number, SIZE)))
    expected = max_sim(entries, queries)
    by_key = dict(zip([one.key for one in entries], expected, strict=True))
    found = store.nearest(queries, 20)
    scores = [score for _, score in found]
    # Embeddings are kept with 11 bits: what is that close may change places.
    np.testing.assert_allclose(scores, [by_key[one.key] for one, _ in found], rtol=0, atol=2e-3 * number)
    np.testing.assert_allclose(scores, np.sort(expected)[::-1][:20], rtol=0, atol=2e-3 * number)


def test_a_picture_without_embeddings_is_never_found(store: Store) -> None:
    queries = unit(np.random.default_rng(9).standard_normal((1, SIZE)))
    found = store.nearest(queries, 1000)
    assert len(found) == len(store) == 300
    assert "bad" not in {one.key for one, _ in found}


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "x.index"), About(MAKER))
    rng = np.random.default_rng(1)
    odd = 'it\'s "odd"\\\n% _ ü.png'
    features = rng.standard_normal((3, 8)).astype(np.float16).astype(np.float32)
    vectors = unit(rng.standard_normal((4, 16))).astype(np.float16).astype(np.float32)
    entry = Entry(odd, odd, "/x/\udcff.png", "1 2", "d" * 64, 7, 5, None, vectors, features, b"png")
    store.put([entry, Entry("other", "other", error="no")], replacing=False)
    (back,) = store.whole([odd], ["vectors", "features", "reading"]).values()
    assert (back.key, back.path, back.file, back.stamp) == (odd, odd, "/x/\udcff.png", "1 2")
    assert (back.digest, back.width, back.height, back.reading) == ("d" * 64, 7, 5, b"png")
    assert back.vectors is not None and back.features is not None
    np.testing.assert_array_equal(back.vectors, vectors)
    np.testing.assert_array_equal(back.features, features)
    store.put([Entry(odd, "new", error="gone")], replacing=True)
    assert {one.key: one.path for one in store.entries()} == {odd: "new", "other": "other"}
    assert store.with_digest("d" * 64) is None
    assert store.remove([odd]) == 1
    assert [one.key for one in store.entries()] == ["other"]
    assert Store.open(store.address).about() == About(MAKER)


def test_what_is_no_index_is_told_from_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no index .* makes one"):
        Store.open(str(tmp_path / "none"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file, and an index is a folder"):
        Store.open(str(tmp_path / "file"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("x")
    with pytest.raises(RunError, match="something else than an index"):
        Store.find(str(tmp_path / "folder"))
    assert [one.name for one in (tmp_path / "folder").iterdir()] == ["letter.txt"]
