"""`Index.search` finds what the retriever itself says of every picture."""

from __future__ import annotations

from tests.support.extras import require

require("test-search")

import shutil
from pathlib import Path

import numpy as np
import pytest

from blip2_chat import Index
from blip2_chat.errors import GenerationError, PictureError
from blip2_chat.retriever import Retriever
from blip2_chat.search import approximate
from blip2_chat.search.indexing import IndexOptions
from blip2_chat.search.store import Store
from tests.support.batch import make_pictures
from tests.support.search import contents, indexed

TEXT = "a woman and her dog"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forty") / "photos"
    make_pictures(folder, 40)
    return folder


@pytest.fixture(scope="module")
def paths(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*.png"))


@pytest.fixture(scope="module")
def out(folder: Path, retriever: Retriever) -> str:
    out = str(folder.parent / "photos.index")
    indexed(retriever, IndexOptions(out, (folder,)))
    return out


@pytest.fixture
def index(out: str, retriever: Retriever) -> Index:
    return Index.open(out, retriever)


def test_itc_finds_what_the_retriever_finds(index: Index, retriever: Retriever, paths: list[str]) -> None:
    similarity = retriever.similarity(paths, [TEXT])[:, 0]
    hits = index.search(TEXT, top=10, rerank=0)
    np.testing.assert_allclose(
        [hit.similarity for hit in hits], np.sort(similarity)[::-1][:10], rtol=0, atol=2e-3
    )
    by_path = dict(zip(paths, similarity, strict=True))
    for hit in hits:
        assert hit.probability is None and hit.score == hit.similarity
        assert hit.similarity == pytest.approx(by_path[hit.path], abs=2e-3)


def test_itm_orders_the_first_again(index: Index, retriever: Retriever, paths: list[str]) -> None:
    match = dict(zip(paths, map(float, retriever.match_pictures(paths, TEXT)), strict=True))
    hits = index.search(TEXT, top=40)
    assert [hit.path for hit in hits] == sorted(paths, key=lambda path: -match[path])
    assert all(hit.probability == pytest.approx(match[hit.path], abs=1e-6) for hit in hits)
    candidates = [hit.path for hit in index.search(TEXT, top=40, rerank=0)]
    told: list[tuple[int, int]] = []
    some = index.search(TEXT, top=40, rerank=20, on_rerank=lambda done, of, left: told.append((done, of)))
    assert [hit.path for hit in some[:20]] == sorted(candidates[:20], key=lambda path: -match[path])
    assert [hit.path for hit in some[20:]] == candidates[20:]
    assert all(hit.probability is None for hit in some[20:]) and told[-1] == (20, 20)
    assert index.search(TEXT, top=3, rerank=20) == some[:3]


def test_a_time_limit_leaves_the_rest_in_itcs_order(index: Index) -> None:
    candidates = index.search(TEXT, top=40, rerank=0)
    hits = index.search(TEXT, top=40, within=0.0)
    read = [hit for hit in hits if hit.probability is not None]
    assert 1 <= len(read) < 40 and hits[: len(read)] == read
    assert {hit.path for hit in read} == {hit.path for hit in candidates[: len(read)]}
    assert hits[len(read) :] == candidates[len(read) :]


def test_a_picture_finds_itself_and_its_like(index: Index, retriever: Retriever, paths: list[str]) -> None:
    mine = retriever.embed_picture(paths[7])
    others = retriever.embed_pictures(paths)
    mean = np.array([(rows @ mine.T).max(axis=0).mean() for rows in others])
    hits = index.search(like=paths[7], top=5)
    assert hits[0].path == paths[7] and hits[0].similarity == pytest.approx(1, abs=2e-3)
    np.testing.assert_allclose([hit.similarity for hit in hits], np.sort(mean)[::-1][:5], rtol=0, atol=2e-3)
    assert [hit.path for hit in index.search(like=hits[0], top=5)] == [hit.path for hit in hits]


def test_kept_features_give_the_same_results(
    folder: Path, retriever: Retriever, tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "kept.index")
    indexed(retriever, IndexOptions(out, (folder,), keep_features=True))
    for entry in contents(out).values():
        assert entry.features is not None and entry.file is not None
        np.testing.assert_allclose(
            entry.features, retriever.encode(entry.file).features, rtol=1e-3, atol=1e-3
        )
    expected = {hit.path: hit.probability for hit in index.search(TEXT, top=40)}

    def never(_: object, pixels: object) -> None:
        raise AssertionError("a picture is encoded that is kept")

    monkeypatch.setattr(type(retriever.engine), "encode_image", never)
    hits = Index.open(out, retriever).search(TEXT, top=40)
    assert len(hits) == 40
    assert all(hit.probability == pytest.approx(expected[hit.path], abs=5e-3) for hit in hits)


def test_what_changed_or_vanished_is_told_and_comes_last(
    folder: Path, retriever: Retriever, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", str(tmp_path / "x.index")
    shutil.copytree(folder, photos)
    indexed(retriever, IndexOptions(out, (photos,)))
    with Index.open(out, retriever) as index:
        first, second, *_ = index.search(TEXT, top=40)
        Path(first.path).unlink()
        shutil.copy(second.path, tmp_path / "kept.png")
        make_pictures(tmp_path / "other", 1, seed=99)
        shutil.copy(tmp_path / "other" / "p0000.png", second.path)
        hits = index.search(TEXT, top=40)
        assert {hit.path for hit in hits[-2:]} == {first.path, second.path}
        told = {hit.path: hit.changed for hit in hits if hit.changed}
        assert "was not found" in told[first.path] and "has changed since it was indexed" in told[second.path]
        assert index.picture(hits[0]).digest == hits[0].digest
        for gone in (first, second):
            with pytest.raises(PictureError):
                index.picture(gone)


def test_an_open_index_sees_what_is_indexed_meanwhile(
    folder: Path, retriever: Retriever, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", str(tmp_path / "x.index")
    shutil.copytree(folder, photos)
    indexed(retriever, IndexOptions(out, (photos,)))
    index = Index.open(out, retriever)
    assert len(index) == 40
    (new,) = make_pictures(photos, 1, seed=77, first=70)
    indexed(retriever, IndexOptions(out))
    assert index.search(like=str(new), top=1)[0].path == str(new) and len(index) == 41


@pytest.mark.parametrize(
    "arguments", [{}, {"text": TEXT, "like": "x.png"}, {"text": TEXT, "top": 0}, {"text": " "}]
)
def test_what_cannot_be_searched_for_is_told(index: Index, arguments: dict[str, object]) -> None:
    with pytest.raises(GenerationError):
        index.search(**arguments)  # type: ignore[arg-type]


def test_the_model_is_loaded_as_the_index_names_it(out: str, retriever: Retriever) -> None:
    with Index.open(out, threads=1) as index:
        assert index.retriever is not retriever and index.retriever.identity == retriever.identity
        assert index.search(TEXT, top=3) == Index.open(out, retriever).search(TEXT, top=3)


def test_a_large_index_has_an_approximate_search_of_measured_recall(
    folder: Path, retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximate, "FIRST", 100)
    monkeypatch.setattr(approximate, "OF", 10)
    photos, out = tmp_path / "photos", str(tmp_path / "x.index")
    shutil.copytree(folder, photos)
    found = indexed(retriever, IndexOptions(out, (photos,))).approximate
    assert found is not None and found.partitions > 1 and 0.99 <= found.recall <= 1
    store = Store.open(out)
    assert store.about().approximate == found
    shares = []
    for text in approximate.texts():
        query = retriever.embed_text(text)[None]
        near = {one.key for one, _ in store.nearest(query, 10, found)}
        shares.append(len(near & {one.key for one, _ in store.nearest(query, 10)}) / 10)
    assert sum(shares) / len(shares) == pytest.approx(found.recall, abs=1e-4)
    # Its similarities are computed from the embeddings, and not from the 8 bits of the approximate search.
    index = Index.open(out, retriever)
    exact = {hit.path: hit.similarity for hit in index.search(TEXT, top=41, rerank=0, exact=True)}
    for hit in index.search(TEXT, top=10, rerank=0):
        assert hit.similarity == pytest.approx(exact[hit.path], abs=1e-4)
    # What is indexed later is found as well.
    (new,) = make_pictures(photos, 1, seed=77, first=70)
    assert indexed(retriever, IndexOptions(out)).approximate == found
    assert index.search(like=str(new), top=1)[0].path == str(new)


def test_more_results_than_there_are_is_all_of_them(index: Index, paths: list[str]) -> None:
    for options in ({"top": 10**30, "rerank": 0}, {"top": 10**30, "rerank": 10**30}):
        assert sorted(hit.path for hit in index.search(TEXT, **options)) == paths
    assert len(index.search(like=paths[0], top=10**30)) == len(paths)
