"""Files that changed between two runs: their words are about what is in them now."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from blip2_chat.batch.options import RunOptions
from blip2_chat.batch.outputs.sidecar import Sidecar
from blip2_chat.batch.run import Run, Summary
from blip2_chat.model import Model
from tests.support.batch import TASKS, make_pictures, rows_of
from tests.support.forking import blip2_chat


def go(model: Model, source: Path, out: Path, sidecar: Sidecar | None = None) -> Summary:
    with Run(RunOptions((source,), TASKS, str(out), sidecar, batch_size=4), {"model": "tiny"}) as run:
        return run.go(model)


def words(out: Path) -> dict[str, tuple[str, str, object]]:
    return {Path(row["path"]).name: (row["digest"], row["caption"], row["error"]) for row in rows_of(out)}


def test_pictures_that_changed_places_take_their_words_along(
    model: Model, tmp_path: Path, written: list[str]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    first, second, third = make_pictures(photos, 3)
    os.utime(second, ns=(1, 1))  # made in the same tick of the file system's clock, they have the same time
    go(model, photos, out, Sidecar(trigger="t"))
    before, texts = words(out), [path.with_suffix(".txt").read_text("utf-8") for path in (first, second)]
    assert texts[0] != texts[1]
    first.rename(photos / "aside")
    second.rename(first)
    (photos / "aside").rename(second)
    written.clear()
    summary = go(model, photos, out, Sidecar(trigger="t"))
    assert (summary.rows, summary.done, summary.changed, summary.duplicates) == (3, 2, 2, 0)
    assert words(out) == {
        first.name: before[second.name],
        second.name: before[first.name],
        third.name: before[third.name],
    }
    assert [path.with_suffix(".txt").read_text("utf-8") for path in (second, first)] == texts
    assert not written, "the words of the same pixels are known"


def test_a_picture_painted_over_is_written_about_anew(
    tiny: Path, model: Model, tmp_path: Path, written: list[str]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    first, _ = make_pictures(photos, 2)
    (other,) = make_pictures(tmp_path / "other", 1, seed=7)
    go(model, photos, out)
    before = words(out)
    shutil.copy(other, first)
    written.clear()
    assert go(model, photos, out).changed == 1
    alone = model.generate(other, "", **TASKS.settings).text
    assert words(out)["p0000.png"][1] == alone and words(out)["p0001.png"] == before["p0001.png"]
    assert len(written) == 1
    os.utime(first)  # touched, as by a backup: the pixels are the same
    assert go(model, photos, out).changed == 1 and len(written) == 1
    assert go(model, photos, out).done == 0


def test_a_file_that_is_gone_keeps_its_words_and_one_that_came_back_gets_them(
    model: Model, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    first, second = make_pictures(photos, 2)
    listed = tmp_path / "list.txt"
    listed.write_text(f"{first}\n{second}\n", encoding="utf-8")
    second.rename(tmp_path / "elsewhere.png")
    assert go(model, listed, out).failed == 1
    (tmp_path / "elsewhere.png").rename(second)
    summary = go(model, listed, out)
    assert (summary.failed, summary.changed) == (0, 1)
    before = words(out)
    first.rename(tmp_path / "elsewhere.png")
    summary = go(model, listed, out)
    assert (summary.rows, summary.done, summary.failed) == (2, 0, 0) and words(out) == before


def test_progress_of_an_earlier_version_is_gone_on_with(model: Model, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    make_pictures(photos, 3)
    go(model, photos, out)
    before = words(out)
    with contextlib.closing(sqlite3.connect(f"{out}.progress")) as journal:
        journal.execute("ALTER TABLE results DROP COLUMN stamp")
        journal.commit()
    assert go(model, photos, out).done == 0 and words(out) == before


def test_the_command_says_how_many_changed(tiny: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    first, _ = make_pictures(photos, 2)
    arguments = ["run", photos, "--out", out, "--model", tiny, "--max-new-tokens", "4"]
    assert blip2_chat(*arguments)[0] == 0
    os.utime(first, ns=(1, 1))
    code, _, stderr = blip2_chat(*arguments)
    assert (
        code == 0 and "2 pictures, 1 now in" in stderr and "1 changed since they were done before" in stderr
    )
