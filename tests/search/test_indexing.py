"""Indexing is a run: what is done stays done, and the index is what its sources hold now."""

from __future__ import annotations

from tests.support.extras import require

require("test-search")

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import blip2_chat
from blip2_chat.batch.errors import RunError
from blip2_chat.retriever import Retriever
from blip2_chat.search.embedder import Embedder
from blip2_chat.search.indexing import Indexing, IndexOptions
from tests.support.batch import digest, make_pictures
from tests.support.checkpoints import make_retriever
from tests.support.search import contents, indexed


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Grows with every picture that the model encodes."""
    every: list[int] = []
    encode = Embedder.encode

    def told(self: Embedder, pixels: np.ndarray) -> np.ndarray:
        every.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(Embedder, "encode", told)
    yield every


def test_an_index_has_the_retrievers_embeddings(retriever: Retriever, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_bytes(b"no picture")
    shutil.copy(photos / "p0000.png", photos / "again.png")
    summary = indexed(retriever, IndexOptions(str(tmp_path / "x.index"), (photos,)))
    assert (summary.rows, summary.done, summary.failed, summary.duplicates) == (14, 14, 1, 1)
    found = contents(tmp_path / "x.index")
    assert set(found) == {str(path) for path in photos.rglob("*.png")}
    for path, entry in found.items():
        if path.endswith("bad.png"):
            assert "bad.png" in (entry.error or "") and entry.vectors is None
            continue
        assert entry.file == path and entry.digest == digest(Path(path)) and entry.error is None
        assert entry.vectors is not None and entry.features is None and entry.reading is None
        np.testing.assert_allclose(entry.vectors, retriever.embed_picture(path), rtol=0, atol=1e-3)


def test_only_what_is_new_or_changed_is_done_and_what_vanished_goes(
    retriever: Retriever, photos: Path, tmp_path: Path, encoded: list[int]
) -> None:
    out = str(tmp_path / "x.index")
    (photos / "bad.png").write_bytes(b"no picture")
    indexed(retriever, IndexOptions(out, (photos,)))
    assert len(encoded) == 12
    again = indexed(retriever, IndexOptions(out))
    assert (again.rows, again.done, again.changed, again.vanished, len(encoded)) == (13, 0, 0, 0, 12)
    # Two files change places, one vanishes, one is new, and the bad one is mended.
    first, second = photos / "p0000.png", photos / "p0001.png"
    first.rename(photos / "x"), second.rename(first), (photos / "x").rename(second)
    for path in (first, second):
        os.utime(path, (1, 1))
    (photos / "p0002.png").unlink()
    (new,) = make_pictures(photos, 1, seed=5, first=40)
    shutil.copy(photos / "p0004.png", photos / "bad.png")
    summary = indexed(retriever, IndexOptions(out, batch_size=1))
    assert (summary.rows, summary.done, summary.changed, summary.vanished, summary.failed) == (13, 4, 3, 1, 0)
    assert len(encoded) == 13, "pixels that are known were encoded again"
    found = contents(out)
    assert set(found) == {str(path) for path in photos.rglob("*.png")} and str(new) in found
    for path, entry in found.items():
        assert entry.digest == digest(Path(path))
        assert entry.vectors is not None
        np.testing.assert_allclose(entry.vectors, retriever.embed_picture(path), rtol=0, atol=1e-3)


def test_sources_are_remembered_added_and_taken_out(
    retriever: Retriever, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "x.index")
    more = tmp_path / "more"
    make_pictures(more, 3, seed=8)
    monkeypatch.chdir(tmp_path)
    assert indexed(retriever, IndexOptions(out, ("photos",), exclude=("p0003.png",))).rows == 11
    monkeypatch.chdir("/")
    assert indexed(retriever, IndexOptions(out, (str(more),))).rows == 14
    assert indexed(retriever, IndexOptions(out, exclude=())).rows == 15, "the pattern is no longer given"
    assert indexed(retriever, IndexOptions(out, without=(str(photos),))).vanished == 12
    assert set(contents(out)) == {str(path) for path in more.rglob("*.png")}
    with pytest.raises(RunError, match=r"nowhere is not a source of .*x\.index"):
        Indexing(IndexOptions(out, without=("/nowhere",)))
    shutil.rmtree(more)
    with pytest.raises(RunError, match=r"more was not found; check the path; without=.* takes it out"):
        Indexing(IndexOptions(out))
    assert len(contents(out)) == 3


def test_an_index_inside_its_own_folder_is_no_source(retriever: Retriever, photos: Path) -> None:
    out = str(photos / "photos.index")
    for _ in range(2):
        summary = indexed(retriever, IndexOptions(out, (photos,)))
        assert summary.rows == 12 and summary.passed_over == {}


def test_members_of_archives_are_kept_as_the_model_reads_them(
    retriever: Retriever, photos: Path, tmp_path: Path
) -> None:
    archive, out = tmp_path / "photos.zip", str(tmp_path / "x.index")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(photos.glob("*.png")):
            file.write(path, path.name)
    indexed(retriever, IndexOptions(out, (archive,)))
    found = contents(out)
    assert set(found) == {f"{archive}/{path.name}" for path in photos.glob("*.png")}
    with blip2_chat.Index.open(out, retriever) as index:
        archive.rename(tmp_path / "moved.zip")
        for hit in index.search("the beach", top=12):
            original = photos / hit.path.rpartition("/")[2]
            assert hit.file is None and hit.digest == digest(original)
            assert hit.probability == pytest.approx(retriever.match(str(original), "the beach"), abs=1e-6)


def test_an_archive_that_is_damaged_now_keeps_its_pictures(
    retriever: Retriever, photos: Path, tmp_path: Path
) -> None:
    archive, out = tmp_path / "photos.zip", str(tmp_path / "x.index")
    with zipfile.ZipFile(archive, "w") as file:
        file.write(photos / "p0000.png", "a.png")
    indexed(retriever, IndexOptions(out, (archive, photos)))
    archive.write_bytes(archive.read_bytes()[:-30])
    summary = indexed(retriever, IndexOptions(out))
    assert summary.failed == 1 and summary.vanished == 0
    assert f"{archive}/a.png" in contents(out)


def test_failed_pictures_are_tried_again_when_asked(
    retriever: Retriever, photos: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "x.index")
    bad = photos / "bad.png"
    bad.write_bytes(b"no picture")
    indexed(retriever, IndexOptions(out, (photos,)))
    stamp = bad.stat()
    assert indexed(retriever, IndexOptions(out)).done == 0
    summary = indexed(retriever, IndexOptions(out, retry_failed=True))
    assert (summary.done, summary.failed, summary.rows) == (1, 1, 13)
    assert bad.stat().st_mtime_ns == stamp.st_mtime_ns
    assert len(contents(out)) == 13


def test_another_model_is_refused(
    retriever: Retriever, photos: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = str(tmp_path / "x.index")
    indexed(retriever, IndexOptions(out, (photos,)))
    folder = make_retriever(tmp_path_factory.mktemp("other") / "model", seed=1, std=0.3)
    other = blip2_chat.load_retriever(folder, threads=1)
    for use in (
        lambda: indexed(other, IndexOptions(out)),
        lambda: blip2_chat.Index.open(out, other),
        lambda: blip2_chat.Index.open(out, folder),
    ):
        with pytest.raises(RunError, match=r"was made with .* whose embeddings cannot be compared") as error:
            use()
        assert "\n" not in str(error.value)
    assert indexed(other, IndexOptions(out, (photos,), fresh=True)).done == 12
    assert blip2_chat.Index.open(out, other).search("the beach", top=1)


def test_one_process_at_a_time(retriever: Retriever, photos: Path, tmp_path: Path) -> None:
    options = IndexOptions(str(tmp_path / "x.index"), (photos,))
    with Indexing(options), pytest.raises(RunError, match="another process is writing it"):
        Indexing(options)
    assert not (tmp_path / "x.index").exists(), "nothing came of it, and nothing is left"
