"""`blip2-chat index` and `search`, as a user types them."""

from __future__ import annotations

from tests.support.extras import require

require("test-search")

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blip2_chat.cli import app
from tests.support.batch import make_pictures
from tests.support.checkpoints import make_retriever


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_retriever(tmp_path_factory.mktemp("retriever") / "model", std=0.3)


def blip2_chat(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `blip2-chat ...`, in this process: LanceDB takes long to import."""
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_index_and_search(tiny: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "photos.index"
    make_pictures(photos, 6)
    (photos / "bad.png").write_bytes(b"no picture")
    code, stdout, stderr = blip2_chat("index", photos, "--out", out, "--model", tiny)
    assert code == 3, stderr
    assert stdout.strip() == str(out) and "7 pictures, 7 now in" in stderr and "1 failed" in stderr
    assert f"{photos / 'bad.png'} is" in stderr
    # The model is the one that the index was made with.
    code, stdout, stderr = blip2_chat("search", out, "two dogs on a beach", "--top", "3")
    assert code == 0 and not stderr, stderr
    scores, found = zip(*(line.split(maxsplit=1) for line in stdout.splitlines()), strict=True)
    assert len(found) == 3 and all(Path(path).is_file() for path in found)
    assert list(map(float, scores)) == sorted(map(float, scores), reverse=True)
    code, stdout, _ = blip2_chat("search", out, "two dogs on a beach", "--top", "3", "--json")
    rows = [json.loads(line) for line in stdout.splitlines()]
    assert [row["path"] for row in rows] == list(found)
    assert all(0 <= row["probability"] <= 1 and -1 <= row["similarity"] <= 1 for row in rows)
    one = photos / "p0001.png"
    code, stdout, _ = blip2_chat("search", out, "--like", one, "--top", "1")
    assert code == 0 and stdout.split(maxsplit=1)[1].strip() == str(one)
    one.unlink()
    code, _, stderr = blip2_chat("index", "--out", out)
    assert "7 pictures were in" in stderr and "1 no longer there and removed" in stderr


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pictures(tmp_path / "photos", 1)
    (tmp_path / "old.index").mkdir()
    monkeypatch.setitem(sys.modules, "lancedb", None)
    for arguments in (
        ("index", tmp_path / "photos", "--out", tmp_path / "x.index", "--model", "no/model"),
        ("search", tmp_path / "old.index", "dogs"),
    ):
        code, _, stderr = blip2_chat(*arguments)
        assert code == 1 and "needs the [search] extra: pip install" in stderr
        assert len(stderr.strip().splitlines()) == 1


def test_faults_are_one_line(tiny: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "photos.index"
    make_pictures(photos, 2)
    other = make_retriever(tmp_path / "other", seed=1, std=0.3)
    assert blip2_chat("index", photos, "--out", out, "--model", tiny)[0] == 0
    for arguments, told in (
        (("search", tmp_path / "none", "dogs"), "there is no index"),
        (("search", out), "give a text to search for, or --like with a picture"),
        (("search", out, "dogs", "--like", photos / "p0000.png"), "give a text to search for, or --like"),
        (("search", out, "--like", photos / "none.png"), "was not found"),
        (("search", out, "dogs", "--model", other), "embeddings cannot be compared"),
        (("index", "--out", out, "--model", other), "index the pictures again with --fresh"),
        (("index", tmp_path / "nowhere", "--out", out), "nowhere was not found"),
        (("index", photos, "--out", tmp_path / "no" / "x.index", "--model", tiny), "there is no folder"),
        (("index", photos, "--out", photos, "--model", tiny), "something else than an index"),
        (("index", "--out", tmp_path / "new.index", "--model", tiny), "give a folder, a pattern"),
        (("index", "--out", out, "--without", "nowhere"), "is not a source of"),
        (("index", "--out", out, "--keep-features"), "was made without --keep-features"),
    ):
        code, _, stderr = blip2_chat(*arguments)
        lines = stderr.strip().splitlines()
        assert code == 1 and lines[-1].startswith("Error: ") and told in lines[-1], stderr
        assert "Traceback" not in stderr and len([one for one in lines if one.startswith("Error")]) == 1
    shutil.rmtree(photos)
    code, _, stderr = blip2_chat("index", "--out", out)
    assert code == 1 and f"--without {photos} takes it out of the index" in stderr
    assert not os.path.exists(tmp_path / "new.index")
