"""Runs from beginning to end: what is written, what is done once, what is noticed."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import blip2_chat
from blip2_chat.batch.captioner import Captioner, Tasks
from blip2_chat.batch.errors import RunError
from blip2_chat.batch.journal import Journal
from blip2_chat.batch.outputs import writers
from blip2_chat.errors import GenerationError
from blip2_chat.installation import install_command
from blip2_chat.model import Model
from tests.support.batch import go, make_pictures, options, rows_of
from tests.support.extras import imported
from tests.support.forking import blip2_chat as command_line


def test_captions_and_answers_are_what_the_model_says_of_each_picture_alone(
    model: Model, tmp_path: Path
) -> None:
    pictures = make_pictures(tmp_path / "photos", 10)
    tasks = Tasks(1, ("how many?", "which  colour?"), {"max_new_tokens": 7})
    summary, told = go(model, options(tmp_path / "photos", tmp_path / "c.jsonl", tasks=tasks))
    rows = rows_of(tmp_path / "c.jsonl")
    assert [row["path"] for row in rows] == [str(path) for path in pictures] == [one.path for one in told]
    assert summary.rows == summary.done == 10 and summary.failed == 0 and not summary.stopped
    for path, row in zip(pictures, rows, strict=True):
        caption = model.generate(path, "", max_new_tokens=7)
        asked = [model.chat(path).ask(one, max_new_tokens=7).text for one in ("how many?", "which colour?")]
        assert row["caption"] == caption.text
        assert row["answers"] == dict(zip(tasks.questions, asked, strict=True))
        assert row["score"] == pytest.approx(np.mean(caption.logprobs), abs=1e-5)
        assert (row["width"], row["height"], row["precision"]) == (24, 20, "fp32")
        assert row["digest"] == model.open(path).digest


def test_several_captions_are_the_best_beams(model: Model, tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path / "photos", 1)
    tasks = Tasks(3, (), {"max_new_tokens": 5})
    go(model, options(tmp_path / "photos", tmp_path / "c.jsonl", tasks=tasks))
    (row,) = rows_of(tmp_path / "c.jsonl")
    answer = model.generate(path, "", max_new_tokens=5, num_beams=3, num_answers=3)
    assert (
        row["captions"] == [answer.text, *(one.text for one in answer.others)] and len(row["captions"]) == 3
    )


def test_drawn_captions_do_not_depend_on_the_batch(model: Model, tmp_path: Path) -> None:
    make_pictures(tmp_path / "photos", 6)
    tasks = Tasks(2, (), {"max_new_tokens": 6, "temperature": 1.5})
    for size in (1, 4):
        made = replace(options(tmp_path / "photos", tmp_path / f"{size}.jsonl", tasks=tasks), batch_size=size)
        go(model, made)
    assert rows_of(tmp_path / "1.jsonl") == rows_of(tmp_path / "4.jsonl")
    seeded = Tasks(2, (), {**tasks.settings, "seed": 7})
    go(model, options(tmp_path / "photos", tmp_path / "s.jsonl", tasks=seeded))
    assert [row["captions"] for row in rows_of(tmp_path / "s.jsonl")] != [
        row["captions"] for row in rows_of(tmp_path / "1.jsonl")
    ]


def test_bad_pictures_are_rows_and_duplicates_are_written_about_once(model: Model, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    pictures = make_pictures(photos, 6)
    (photos / "p0002x.png").write_bytes(pictures[2].read_bytes()[:50])
    shutil.copy(pictures[1], photos / "a-copy.png")
    with Image.open(pictures[1]) as image:
        image.save(photos / "z-other-file.bmp")
    generated = []
    write = Captioner.write

    def counting(self: Captioner, vectors: Any, digests: Sequence[str]) -> Any:
        generated.extend(digests)
        return write(self, vectors, digests)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Captioner, "write", counting)
        summary, _ = go(model, options(photos, tmp_path / "c.jsonl"))
    assert len(generated) == len(set(generated)) == 6
    assert (summary.rows, summary.failed, summary.duplicates) == (9, 1, 2)
    rows = {Path(row["path"]).name: row for row in rows_of(tmp_path / "c.jsonl")}
    assert "damaged" in rows["p0002x.png"]["error"] and rows["p0002x.png"]["caption"] is None
    first, second, third = rows["a-copy.png"], rows["p0001.png"], rows["z-other-file.bmp"]
    assert first["duplicate_of"] is None
    assert second["duplicate_of"] == third["duplicate_of"] == first["path"]
    assert first["caption"] == second["caption"] == third["caption"] and first["digest"] == third["digest"]


def test_a_second_run_does_what_is_new_and_keeps_the_order(model: Model, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    pictures = make_pictures(photos, 6)
    go(model, options(photos, out, limit=3))
    assert len(rows_of(out)) == 3
    shutil.copy(pictures[-1], photos / "a-new.png")
    pictures[0].unlink()
    summary, told = go(model, options(photos, out))
    assert summary.done == 4 and summary.rows == 6
    names = [Path(row["path"]).name for row in rows_of(out)]
    assert names == ["a-new.png", "p0001.png", "p0002.png", "p0004.png", "p0005.png", "p0003.png"]
    assert {Path(one.path).name for one in told} == {"a-new.png", "p0004.png", "p0005.png", "p0003.png"}
    out.unlink()
    summary, _ = go(model, options(photos, out))
    assert summary.done == 0 and len(rows_of(out)) == 6, "made again from what is remembered"


def test_the_same_path_listed_twice_has_two_rows_and_is_done_once(model: Model, tmp_path: Path) -> None:
    make_pictures(tmp_path, 2)
    listed = tmp_path / "list.txt"
    listed.write_text("p0001.png\np0000.png\np0001.png\n", encoding="utf-8")
    summary, told = go(model, options(listed, tmp_path / "c.jsonl"))
    rows = rows_of(tmp_path / "c.jsonl")
    assert [Path(row["path"]).name for row in rows] == ["p0001.png", "p0000.png", "p0001.png"]
    assert summary.rows == 3 and len(told) == 2 and rows[2]["caption"] == rows[0]["caption"]


def test_changed_settings_are_noticed_and_reported(model: Model, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    make_pictures(photos, 2)
    go(model, options(photos, out))
    other = Tasks(1, ("how many?", "where?"), {"max_new_tokens": 9})
    with pytest.raises(RunError) as error:
        go(model, options(photos, out, tasks=other))
    assert "questions was how many? and is now how many?, where?" in str(error.value)
    assert "writing was max_new_tokens=6 and is now max_new_tokens=9" in str(error.value)
    with pytest.raises(RunError, match="model was tiny and is now large"):
        go(model, options(photos, out), model="large")
    summary, _ = go(model, options(photos, out, tasks=other, fresh=True))
    assert summary.done == 2 and set(rows_of(out)[0]["answers"]) == {"how many?", "where?"}


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv", ".tar"])
def test_results_carry_the_advice_that_caption_gives(model: Model, tmp_path: Path, ending: str) -> None:
    if ending == ".parquet":
        imported("pyarrow", "test-ray")
    photos, out = tmp_path / "photos", tmp_path / f"c{ending}"
    photos.mkdir()
    stripes = np.zeros((120, 120, 3), np.uint8)
    stripes[:, ::8] = 255
    Image.fromarray(stripes).save(photos / "fine.png")
    Image.fromarray(stripes // 8).save(photos / "dark.png")
    Image.fromarray(stripes[:20, :20] // 8).save(photos / "dark-and-tiny.png")
    (photos / "empty.png").touch()
    go(model, options(photos, out))
    rows = {Path(row.path).stem: row for row in writers.read(str(out))}
    for name in ("fine", "dark", "dark-and-tiny"):
        chat = model.chat(photos / f"{name}.png")
        assert rows[name].advice == tuple(one.message for one in chat.advice)
    assert [len(rows[name].advice) for name in ("fine", "dark", "dark-and-tiny")] == [0, 1, 2]
    assert rows["empty"].error and rows["empty"].advice == ()
    out.unlink()
    go(model, options(photos, out))
    assert {Path(row.path).stem: row for row in writers.read(str(out))} == rows, "the journal keeps it too"


def test_a_row_of_a_journal_without_advice_is_kept(model: Model, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    make_pictures(photos, 2)
    go(model, options(photos, out))
    with closing(sqlite3.connect(tmp_path / "c.jsonl.progress", isolation_level=None)) as db:
        db.execute("UPDATE results SET result = json_remove(result, '$.advice')")
    assert go(model, options(photos, out))[0].done == 0
    assert [row["advice"] for row in rows_of(out)] == [[], []]


def test_captions_go_on_from_their_start(model: Model, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    (path,) = make_pictures(photos, 1)
    settings = {
        "max_new_tokens": 6,
        "num_beams": 2,
        "length_penalty": 0.5,
        "no_repeat_ngram_size": 2,
        "stop": ("e",),
    }
    expected = model.generate(path, "a photo of", **settings)
    tasks = Tasks(1, ("how many?",), settings, start=" a photo of ")
    go(model, options(photos, out, tasks=tasks))
    (row,) = rows_of(out)
    assert row["caption"] == f"a photo of {expected.text}".strip()
    asked = model.chat(path).ask("how many?", **settings).text
    assert row["answers"] == {"how many?": asked}, "an answer has no start"
    (result,) = blip2_chat.caption_all([path], model=model, start="a photo of", **settings)
    assert result.caption == row["caption"]
    assert go(model, options(photos, out, tasks=tasks))[0].done == 0, "the same settings resume"
    with pytest.raises(RunError, match="start was a photo of and is now a drawing of"):
        go(model, options(photos, out, tasks=replace(tasks, start="a drawing of")))
    with pytest.raises(RunError, match=r"stop=e and is now .*stop=o"):
        go(model, options(photos, out, tasks=replace(tasks, settings={**settings, "stop": ("o",)})))
    with pytest.raises(GenerationError, match="a start is continued by captions"):
        Tasks(0, ("how many?",), start="a")


def test_a_run_begun_before_there_were_starts_goes_on(model: Model, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    make_pictures(photos, 2)
    go(model, options(photos, out))
    with Journal(tmp_path / "c.jsonl.progress") as journal:
        settings = journal.about("settings")
        del settings["start"]
        journal.note({"settings": settings})
    assert go(model, options(photos, out))[0].done == 0


def test_failed_pictures_are_tried_again_on_request(model: Model, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    (_, bad) = make_pictures(photos, 2)
    whole, written = bad.read_bytes(), bad.stat().st_mtime_ns
    for content in (
        bytes(len(whole)),
        whole,
    ):  # as if the disk had had a bad moment: nobody wrote the file anew
        bad.write_bytes(content)
        os.utime(bad, ns=(written, written))
        assert go(model, options(photos, out))[0].failed == 1
    summary, told = go(model, options(photos, out, retry_failed=True))
    assert summary.failed == 0 and [one.path for one in told] == [str(bad)]


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv", ".tar"])
def test_every_format_reads_back_as_it_was(model: Model, tmp_path: Path, ending: str) -> None:
    if ending == ".parquet":
        imported("pyarrow", "test-ray")
    photos = tmp_path / "photos"
    make_pictures(photos, 3)
    (photos / 'odd, "name"\u2028 é.png').write_bytes(b"")
    tasks = Tasks(2, ("how, many?",), {"max_new_tokens": 5})
    _, told = go(model, options(photos, tmp_path / f"c{ending}", tasks=tasks))
    back = list(writers.read(str(tmp_path / f"c{ending}")))
    assert back == told
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"c{ending}", f"c{ending}.progress", "photos"]


def test_output_files_open_in_other_programs(model: Model, tmp_path: Path) -> None:
    parquet = imported("pyarrow.parquet", "test-ray")
    photos = tmp_path / "photos"
    make_pictures(photos, 2)
    tasks = Tasks(2, ("how many?",), {"max_new_tokens": 5})
    for ending in ("parquet", "csv", "tar"):
        go(model, options(photos, tmp_path / f"c.{ending}", tasks=tasks))
    table = parquet.read_table(tmp_path / "c.parquet")
    assert set(table.to_pylist()[0]["answers"]) == {"how many?"}
    assert json.loads(table.schema.metadata[b"blip2_chat"])["questions"] == ["how many?"]
    head = (tmp_path / "c.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith("path,caption,caption 2,answers.how many?,score,error,width,height,digest")
    with tarfile.open(tmp_path / "c.tar") as archive:
        assert archive.getnames() == ["000000000.json", "000000000.txt", "000000001.json", "000000001.txt"]


def test_an_output_that_cannot_be_replaced_keeps_results_and_the_old_file(
    model: Model, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "c.jsonl"
    make_pictures(photos, 2)
    out.mkdir()  # a rename onto a folder fails on every system
    (out / "inside").touch()
    with pytest.raises(RunError, match=r"c\.jsonl cannot be written .*the results are kept"):
        go(model, options(photos, out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "c.jsonl.progress", "photos"]
    shutil.rmtree(out)
    summary, _ = go(model, options(photos, out))
    assert summary.done == 0 and len(rows_of(out)) == 2


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("pyarrow", ["run", "{photos}", "--out", "{tmp}/c.parquet"], "run"),
        ("pyarrow", ["run", "{tmp}/t.parquet", "--out", "{tmp}/c.jsonl"], "run"),
        ("s3fs", ["run", "s3://bucket/photos", "--out", "{tmp}/c.jsonl"], "s3"),
        ("ray", ["run", "{photos}", "--out", "{tmp}/c.jsonl", "--ray", "local"], "ray"),
    ],
)
def test_a_missing_extra_is_named(tmp_path: Path, module: str, arguments: list[str], extra: str) -> None:
    make_pictures(tmp_path / "photos", 1)
    (tmp_path / "t.parquet").touch()
    given = [one.format(photos=tmp_path / "photos", tmp=tmp_path) for one in arguments]
    code = f"import sys; sys.modules[{module!r}] = None; from blip2_chat.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, timeout=120)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert done.returncode == 1 and len(errors) == 1
    assert errors[0].endswith(f"needs the [{extra}] extra: {install_command(extra)}")


def test_dry_run_estimates_and_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    make_pictures(photos, 60)
    arguments = ("run", photos, "--out", tmp_path / "c.jsonl", "--model", tiny, "--dry-run")
    code, out, err = command_line(*arguments, "--max-new-tokens", "5")
    assert code == 0, err
    assert out.startswith("60 pictures, 0 of them done before\n") and re.search(
        r"estimated: \d+ s for what", out
    )
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_command_line_says_how_many_failed(tiny: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    make_pictures(photos, 3)
    (photos / "bad.png").touch()
    arguments = [
        "run",
        photos,
        "--model",
        tiny,
        "--max-new-tokens",
        "5",
        "--ask",
        "how many?",
        "--sidecar",
        "txt",
    ]
    code, out, err = command_line(*arguments, "--out", tmp_path / "c.jsonl")
    assert code == 3 and out == f"{tmp_path / 'c.jsonl'}\n"
    assert "Done: 4 pictures, 4 now in" in err and "1 failed" in err
    rows = rows_of(tmp_path / "c.jsonl")
    assert rows[1]["caption"] is None and rows[1]["answers"]["how many?"]
    text = (photos / "p0000.txt").read_text(encoding="utf-8").strip()
    assert text == " ".join(rows[1]["answers"]["how many?"].split())
    code, _, err = command_line("run", photos)
    assert code == 1 and "give --out (" in err
    code, _, err = command_line("run", photos, "--out", tmp_path / "c.xlsx")
    assert code == 1 and "ends in none of .parquet, .jsonl, .csv, .tar" in err


def test_the_command_counts_skipped_files(tiny: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    make_pictures(photos, 3)
    make_pictures(photos / "@eaDir", 3)
    for name in ("a.mp4", "b.mov", "notes.txt", "noending"):
        (photos / name).write_bytes(b"nothing")
    (tmp_path / "list.txt").write_text("photos/p0000.png\n# and one more\ngone.png\n", encoding="utf-8")
    arguments = ["--model", tiny, "--exclude", "@eaDir", "--max-new-tokens", "5"]
    code, _, err = command_line("run", photos, "--out", tmp_path / "c.jsonl", *arguments)
    assert code == 0 and len(rows_of(tmp_path / "c.jsonl")) == 3
    assert "passed over: 2 videos, 1 excluded folder, 1 text file, 1 other file\n" in err
    code, _, err = command_line(
        "run", tmp_path / "list.txt", tmp_path / "s.tar", "-o", tmp_path / "d.csv", *arguments
    )
    assert code == 3 and "2 failed" in err and "passed over: 1 comment line\n" in err and "Warning" not in err
    (photos / "p0000.txt").write_text("by hand", encoding="utf-8")
    code, _, err = command_line("run", photos, "--sidecar", "txt", *arguments)
    assert code == 0 and "1 text file was there already and left alone" in err
    code, _, err = command_line("run", photos, "--sidecar", "txt", "--append", *arguments, "--fresh")
    text = (photos / "p0000.txt").read_text(encoding="utf-8")
    assert code == 0 and text.startswith("by hand, ") and text.count("\n") == 1
    for wrong in (["--append"], ["--sidecar", "txt", "--append", "--prepend"], ["--with-pictures"]):
        code, _, err = command_line("run", photos, "--out", tmp_path / "x.csv", *wrong, *arguments)
        assert code != 0 and "Traceback" not in err
