"""Progress files that were damaged, or are something else: one line, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blip2_chat.batch.errors import RunError
from blip2_chat.batch.journal import Journal
from blip2_chat.batch.options import RunOptions
from blip2_chat.batch.outputs.sidecar import Sidecar
from blip2_chat.batch.run import Run
from blip2_chat.model import Model
from tests.support.batch import TASKS, make_pictures
from tests.support.forking import blip2_chat


def flipped(data: bytes, draw: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(draw.choice((1, 4, 40))):
        found[draw.randrange(len(found))] = draw.randrange(256)
    return bytes(found)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def overwritten(data: bytes, draw: random.Random) -> bytes:
    """A sector of something else, as a disk that fails gives it back."""
    at = draw.randrange(0, len(data), 512)
    return data[:at] + draw.choice((bytes(512), draw.randbytes(512), data[:512])) + data[at + 512 :]


def header(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(110)
    return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [flipped, cut, overwritten, header])
def test_damage_anywhere(
    model: Model, tmp_path: Path, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    paths = make_pictures(photos, 6)
    options = RunOptions((photos,), TASKS, str(out), Sidecar())
    with Run(options, {"model": "tiny"}) as run:
        run.go(model)
    good, progress = out.read_bytes(), Path(f"{out}.progress")
    whole = progress.read_bytes()
    draw = random.Random(1)
    refused = 0
    for _ in range(60):
        out.write_bytes(good)
        for path in tmp_path.glob("*.progress*"):
            path.unlink()
        progress.write_bytes(damage(whole, draw))
        try:
            with Run(options, {"model": "tiny"}) as run:
                run.go(model)
        except RunError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 700 and str(progress) in str(error)
            assert out.read_bytes() == good, "the outcome of before is there still"
        else:
            assert len(out.read_bytes().splitlines()) == len(paths)
        assert all(path.with_suffix(".txt").read_bytes() for path in paths)
    assert refused


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE results SET result = 'x' || result",
        "UPDATE results SET result = '[]'",
        "UPDATE results SET result = 7",
        "UPDATE results SET result = x'ff'",
        "UPDATE results SET result = '" + "[" * 100_000 + "'",
        """UPDATE results SET result = '{"path": "a", "captions": "x", "answers": {}}'""",
        """UPDATE results SET result = '{"path": "a", "captions": ["x"], "answers": {}, "width": "x"}'""",
        """UPDATE results SET result = '{"path": "a", "captions": ["x"], "answers": {"how many?": 3}}'""",
        "UPDATE about SET value = 'x'",
        "UPDATE about SET value = '[1]'",
        "UPDATE about SET value = '3' WHERE name = 'settings'",
        'UPDATE about SET value = \'{"sources": "' + "y" * 200_000 + "\"}' WHERE name = 'settings'",
        "UPDATE about SET value = '[3]' WHERE name = 'chosen'",
        "UPDATE about SET value = CAST(x'ff' AS TEXT)",
        "DROP TABLE about; CREATE TABLE about (x)",
        "DROP TABLE results; CREATE TABLE results (key)",
        "DROP TABLE results; CREATE VIEW results AS WITH RECURSIVE n(key) AS (SELECT 1 UNION ALL SELECT 1 FROM n)"
        " SELECT key, 1 AS ok, '' AS digest, '' AS result, '' AS sidecar, '' AS stamp FROM n",
        "CREATE TRIGGER t AFTER INSERT ON about BEGIN DELETE FROM results; END",
    ],
)
def test_impossible_values_in_a_result_are_refused(model: Model, tmp_path: Path, statement: str) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    make_pictures(photos, 2)
    options = RunOptions((photos,), TASKS, str(out))
    with Run(options, {"model": "tiny"}) as run:
        run.go(model)
    good = out.read_bytes()
    with contextlib.closing(sqlite3.connect(f"{out}.progress")) as database:
        database.executescript(statement)
    with pytest.raises(RunError) as told, Run(options, {"model": "tiny"}) as run:
        run.chosen()  # asked for before the model is loaded
        run.go(model)
    assert len(str(told.value)) < 900 and "\n" not in str(told.value)
    assert out.read_bytes() == good


def test_a_path_that_is_not_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    strange = [tmp_path / "folder"]
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        strange += [tmp_path / "pipe", Path("/dev/zero")]
    for path in strange:
        with pytest.raises(RunError, match="is not a file; give another"):
            Journal(path)
    (tmp_path / "other").write_text("{}" * 1000, encoding="utf-8")
    with pytest.raises(RunError, match=r"is damaged, or not a progress file of blip2-chat .* Move it away"):
        Journal(tmp_path / "other")
    assert (tmp_path / "other").read_text(encoding="utf-8") == "{}" * 1000


def test_the_command_says_it_in_one_line(tiny: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    make_pictures(photos, 2)
    (tmp_path / "c.jsonl.progress").write_bytes(b"SQLite format 3\0" + random.Random(0).randbytes(9000))
    code, out, err = blip2_chat("run", photos, "--out", tmp_path / "c.jsonl", "--model", tiny)
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert code == 1 and out == "" and "is damaged" in line and "report it" not in line
    assert len(line) < 700
