"""Runs over odd collections: names, tables and patterns as people have them."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from blip2_chat import caption_all
from blip2_chat.batch.errors import RunError
from blip2_chat.batch.options import RunOptions
from blip2_chat.batch.outputs.sidecar import Sidecar
from blip2_chat.batch.ray_run import _start
from blip2_chat.batch.run import Run, Summary
from blip2_chat.model import Model
from tests.support.batch import TASKS, make_pictures, rows_of
from tests.support.extras import imported


def go(running: Model, source: Path | str, out: Path, sidecar: Sidecar | None = None) -> Summary:
    options = RunOptions((source,), TASKS, str(out), sidecar, batch_size=4)
    with Run(options, {"model": "tiny"}) as run:
        return run.go(running)


def test_a_pattern_does_not_match_what_the_run_writes(model: Model, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    pictures = make_pictures(photos, 3)
    for ending in ("txt", "caption", "txt"):
        summary = go(model, f"{photos}/*", photos / "c.jsonl", Sidecar(ending))
        assert (summary.rows, summary.failed) == (3, 0)
    assert [row["path"] for row in rows_of(photos / "c.jsonl")] == [str(path) for path in pictures]
    assert (photos / "p0000.caption").is_file() and (photos / "p0000.txt").is_file()


def test_an_input_is_never_overwritten(model: Model, tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    table = tmp_path / "t.csv"
    table.write_text("path,label\np0000.png,mine\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"t\.csv is one of the inputs and would be overwritten") as caught:
        go(model, table, tmp_path / "." / "t.csv")
    assert caught.value.parameter == "out"
    assert "mine" in table.read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p0000.png", "t.csv"]


def test_a_table_written_anew_with_other_pictures_in_its_rows(
    model: Model, tmp_path: Path, written: list[str]
) -> None:
    pa, parquet = imported("pyarrow", "test-ray"), imported("pyarrow.parquet", "test-ray")
    first, second, third = (path.read_bytes() for path in make_pictures(tmp_path / "photos", 3))
    table, out = tmp_path / "t.parquet", tmp_path / "c.jsonl"
    parquet.write_table(pa.table({"image": [first, second]}), table)
    go(model, table, out)
    before = [row["digest"] for row in rows_of(out)]
    parquet.write_table(pa.table({"image": [second, third]}), table)
    written.clear()
    summary = go(model, table, out)
    rows = rows_of(out)
    assert [row["path"] for row in rows] == [f"{table}#0", f"{table}#1"] and summary.rows == 2
    assert rows[0]["digest"] == before[1] and written == [rows[1]["digest"]]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_folders_and_files_whose_names_are_no_text(model: Model, tmp_path: Path) -> None:
    photos = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    (path,) = make_pictures(photos, 1)
    path.rename(photos / os.fsdecode(b"\xe9.png"))
    for _ in range(2):
        summary = go(model, photos, tmp_path / "c.jsonl", Sidecar())
        assert summary.rows == 1 and summary.failed == 0
    assert (photos / os.fsdecode(b"\xe9.txt")).is_file()


def test_the_first_of_the_same_pixels_is_named_whatever_its_number(model: Model, tmp_path: Path) -> None:
    *given, other = (path.read_bytes() for path in make_pictures(tmp_path, 11))
    given += [given[9], other, given[9]]
    # "10" comes before "9" where the numbers are texts.
    results = list(caption_all(given, model=model, batch_size=1, max_new_tokens=3))
    assert [one.duplicate_of for one in results[9:]] == [None, "#9", None, "#9"]


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_an_unreachable_cluster_is_reported_at_once(address: str) -> None:
    with socket.socket() as taken:  # bound, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        address = address.format(port=taken.getsockname()[1])
        with pytest.raises(RunError, match=f"Ray at '{address}' cannot be reached .*; check the address"):
            _start(None, address)


def test_an_address_that_nothing_opens_is_a_row(model: Model, tmp_path: Path) -> None:
    (path,) = make_pictures(tmp_path, 1)
    (tmp_path / "list.txt").write_text(f"foo://bucket/a.png\n{path.name}\n", encoding="utf-8")
    summary = go(model, tmp_path / "list.txt", tmp_path / "c.jsonl")
    assert summary.rows == 2 and summary.failed == 1
    assert rows_of(tmp_path / "c.jsonl")[0]["error"] == "foo://bucket/a.png: Protocol not known: foo"
