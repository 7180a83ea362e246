"""Pictures that are alike, by the embeddings of an index: those that `search --like` finds, on the report's page."""

from __future__ import annotations

from tests.support.extras import require

require("test-search")

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from blip2_chat import Index
from blip2_chat.batch.outputs.writers import Shape, write
from blip2_chat.batch.result import Result
from blip2_chat.cli import app
from blip2_chat.retriever import Retriever
from blip2_chat.search import alike
from blip2_chat.search.alike import most_alike
from blip2_chat.search.indexing import IndexOptions
from blip2_chat.search.store import Store
from tests.support.batch import digest, make_pictures
from tests.support.search import contents, indexed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alike") / "photos"
    pictures = make_pictures(folder, 30)
    shutil.copy(pictures[3], folder / "again.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def out(folder: Path, retriever: Retriever) -> str:
    out = str(folder.parent / "photos.index")
    indexed(retriever, IndexOptions(out, (folder,)))
    return out


def test_compared_in_full_they_are_what_search_finds(
    out: str, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alike, "_CANDIDATES", 100)
    digests = {entry.digest for entry in contents(out).values() if entry.digest}
    assert len(digests) == 30
    found = most_alike(Store.open(out), digests, 4)
    assert found.keys() == digests
    index = Index.open(out, retriever)
    for one, others in found.items():
        hits = {
            hit.digest: hit.similarity
            for hit in index.search(like=index.with_digest(one), top=31)
            if hit.digest != one
        }
        assert len(others) == len(set(others)) == 4 and one not in others
        np.testing.assert_allclose(
            [hits[other] for other in others], sorted(hits.values(), reverse=True)[:4], rtol=0, atol=2e-3
        )


def test_of_the_pictures_that_were_asked_for(out: str) -> None:
    some = sorted({entry.digest for entry in contents(out).values() if entry.digest})[:3]
    found = most_alike(Store.open(out), [*some, "unknown"])
    assert {one: set(others) for one, others in found.items()} == {one: {*some} - {one} for one in some}
    assert most_alike(Store.open(out), some[:1]) == {some[0]: []}
    assert most_alike(Store.open(out), ["unknown"]) == {}
    assert most_alike(Store.open(out), []) == {}


def test_of_very_many_pictures_the_means_are_compared(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "_MOST_IN_FULL", 5)
    by_digest = {entry.digest: entry.vectors for entry in contents(out).values() if entry.digest}
    digests = list(by_digest)
    rows = np.stack([by_digest[one] for one in digests])  # type: ignore[arg-type]
    means = (rows / np.linalg.norm(rows, axis=2, keepdims=True)).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    likeness = means @ means.T
    np.fill_diagonal(likeness, -1)
    for one, others in most_alike(Store.open(out), digests, 5).items():
        scores = likeness[digests.index(one)]
        np.testing.assert_allclose(
            scores[[digests.index(other) for other in others]], np.sort(scores)[::-1][:5], rtol=0, atol=1e-5
        )


def test_the_report_shows_them(folder: Path, out: str, tmp_path: Path) -> None:
    paths = sorted(path for path in folder.glob("*.png") if path.name != "broken.png")
    made = [Result(str(path), (path.stem,), {}, -1, digest=digest(path)) for path in paths]
    made.insert(0, Result(str(folder / "broken.png"), error="broken.png is no picture"))
    results = tmp_path / "captions.jsonl"
    write(str(results), made, Shape(1, [], {}))
    done = CliRunner().invoke(app, ["report", str(results), "--index", out])
    assert done.exit_code == 0, done.output
    page = results.with_suffix(".html").read_text("utf-8")
    rows = json.loads(page.split('type="application/json">')[1].split("</script>")[0])["rows"]
    found = most_alike(Store.open(out), [one.digest for one in made if one.digest])
    assert rows[0][-1] == []
    for row, one in zip(rows[1:], made[1:], strict=True):
        assert [made[at].digest for at in row[-1]] == found[one.digest or ""] and len(row[-1]) == 6


def test_an_index_of_other_pictures_is_told(folder: Path, out: str, tmp_path: Path) -> None:
    results = tmp_path / "captions.jsonl"
    write(str(results), [Result("x.png", ("a cat",), {}, -1, digest="of another")], Shape(1, [], {}))
    done = CliRunner().invoke(app, ["report", str(results), "--index", out])
    assert done.exit_code == 0 and f"none of the pictures is in {out}" in done.output
    done = CliRunner().invoke(app, ["report", str(results), "--index", str(tmp_path / "absent.index")])
    assert done.exit_code == 1 and "there is no index" in done.output
