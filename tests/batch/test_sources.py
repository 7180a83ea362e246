"""What a user points at becomes pictures: all of them, in order, read when they are asked for."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import random
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from blip2_chat.batch.errors import RunError
from blip2_chat.batch.inputs.pictures import Opener
from blip2_chat.batch.inputs.sources import check, open_sources, stdin_list
from blip2_chat.batch.inputs.tables import Columns
from blip2_chat.batch.items import Item, count, positioned
from blip2_chat.images import PictureLimits, Preprocess, open_picture
from tests.support.batch import make_pictures
from tests.support.extras import imported
from tests.support.sources import colour, make_shard, png


def found(
    *sources: Path | str, column: str | None = None, name: str | None = None, chunk: int = 3
) -> list[Item]:
    columns = Columns(column, name)
    items = list(positioned(open_sources(sources, columns, chunk=chunk)))
    assert count(open_sources(sources, columns)) == len(items)
    assert [item.position for item in items] == sorted(item.position for item in items)
    return items


def test_folders_are_walked_in_order_and_other_files_skipped(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path, 9)
    (tmp_path / ".hidden").mkdir()
    for name in ("notes.txt", "._p0000.png", ".hidden/p.png"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "captions.parquet").write_bytes(b"PAR1")
    if sys.platform != "win32":
        (tmp_path / "inner" / "up").symlink_to(tmp_path)
    assert [item.path for item in found(tmp_path)] == [str(path) for path in pictures]
    assert [item.path for item in found(str(tmp_path / "p*2.png"))] == [str(tmp_path / "p0002.png")]
    assert [item.path for item in found(tmp_path / "**" / "p*.png")] == sorted(map(str, pictures))
    two = found(pictures[0], tmp_path / "inner")
    assert [item.path for item in two] == [str(pictures[0]), *(str(path) for path in pictures[-2:])]


def test_inner_folders_that_may_not_be_read_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = make_pictures(tmp_path, 8)
    closed, scandir = tmp_path / "inner", os.scandir

    def guarded(folder: str) -> Any:
        if folder == str(closed):  # by hand: root may read everything
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr("os.scandir", guarded)
    *others, last = found(tmp_path)
    assert [item.path for item in others] == [str(path) for path in pictures[:6]]
    assert (last.path, last.error) == (str(closed), f"{closed} may not be read; what is in it is left out")
    with pytest.raises(RunError, match="inner may not be read; give another folder"):
        check([closed], Columns())


def test_lists_lead_to_pictures_beside_them_to_absolute_ones_and_to_the_web(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "photos", 3)
    listed = tmp_path / "photos" / "list.txt"
    lines = ["# two of them", "p0001.png", "", str(pictures[0]), "https://example.org/x.png", "gone.png"]
    listed.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    items = found(listed)
    paths = [str(tmp_path / "photos" / "p0001.png"), str(pictures[0]), "https://example.org/x.png"]
    assert [item.path for item in items] == [*paths, str(tmp_path / "photos" / "gone.png")]
    assert items[2].file is None and items[0].file == items[0].path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_tables_of_paths(tmp_path: Path, kind: str) -> None:
    pictures = make_pictures(tmp_path, 2)
    rows = [{"id": "first", "Image_Path": "p0000.png"}, {"id": 'se"cond', "Image_Path": ""}]
    path = tmp_path / f"table.{kind}"
    with path.open("w", newline="", encoding="utf-8") as file:
        if kind == "jsonl":
            file.write("".join(json.dumps(row) + "\n" for row in rows) + "\nbroken\n")
        else:
            writer = csv.DictWriter(file, ["id", "Image_Path"], delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    items = found(path)
    assert items[0].path == str(pictures[0]) and items[0].error is None
    assert items[1].error == f"row 1 of {path} has no picture in 'Image_Path'"
    if kind == "jsonl":
        assert items[2].error is not None and "line 4" in items[2].error and "not JSON" in items[2].error
    named = found(path, name="id")
    assert [item.path for item in named][:2] == ["first", 'se"cond']
    assert named[0].file == str(pictures[0]), "sidecars go beside the picture, whatever the row is called"
    with pytest.raises(RunError, match=r"no column 'none'; it has id, Image_Path"):
        found(path, column="none")


def test_a_csv_with_more_fields_in_a_row_than_names_in_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("path,caption\na.png,a dog, a cat\nb.png,a cow\n", encoding="utf-8")
    assert [item.path for item in found(path)] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_a_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\ufeffid;path\r\n1,5;a, b.png\r\n", encoding="utf-8")
    assert [item.path for item in found(path)] == [str(tmp_path / "a, b.png")]
    path.write_bytes(b"path\ncaf\xe9.png\n")
    with pytest.raises(RunError, match=r"t\.csv is not UTF-8 .*; save it as UTF-8"):
        found(path)


def test_rows_that_cannot_be_written_as_text_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"path": "\\ud83d.png"}\n' + "[" * 100_000 + '\n{"path": "a.png"}\n', encoding="utf-8")
    half, deep, good = found(path)
    assert half.path == str(tmp_path / "\\ud83d.png") and deep.error is not None and "line 2" in deep.error
    assert good.error is None
    pa, parquet = imported("pyarrow", "test-ray"), imported("pyarrow.parquet", "test-ray")
    buffers = [
        None,
        pa.py_buffer((0).to_bytes(4, "little") + (2).to_bytes(4, "little")),
        pa.py_buffer(b"a\xff"),
    ]
    parquet.write_table(
        pa.table({"path": pa.Array.from_buffers(pa.string(), 1, buffers)}), tmp_path / "t.parquet"
    )
    (item,) = positioned(open_sources([tmp_path / "t.parquet"]))
    assert item.error is not None and "t.parquet cannot be read ('utf-8' codec" in item.error


def test_parquet_of_bytes_of_structs_and_of_paths(tmp_path: Path) -> None:
    pa = imported("pyarrow", "test-ray")
    parquet = imported("pyarrow.parquet", "test-ray")
    pictures = make_pictures(tmp_path, 5)
    path = tmp_path / "table.parquet"
    raw = [png(n) for n in range(5)]
    table = pa.table(
        {
            "image": [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(raw)],
            "raw": raw,
            "where": [str(one) for one in pictures],
            "label": list("abcde"),
        }
    )
    parquet.write_table(table, path, row_group_size=2)
    assert len(list(open_sources([path]))) == 3
    items = found(path)
    assert [colour(item) for item in items] == [0, 1, 2, 3, 4]
    assert [item.path for item in items] == [f"{path}#{n}" for n in range(5)]
    assert [colour(item) for item in found(path, column="raw")] == [0, 1, 2, 3, 4]
    assert [item.path for item in found(path, column="where")] == [str(one) for one in pictures]
    assert [item.path for item in found(path, name="label")] == list("abcde")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(RunError, match="cannot be read as Parquet"):
        found(tmp_path / "broken.parquet")


def test_shards_by_pattern_and_by_braces(tmp_path: Path) -> None:
    make_shard(tmp_path / "s-00.tar", range(3))
    make_shard(tmp_path / "s-01.tar", range(3, 5))
    for source in (tmp_path / "s-*.tar", tmp_path / "s-{00..01}.tar"):
        items = found(source)
        assert [colour(item) for item in items] == [0, 1, 2, 3, 4]
        assert items[4].path == f"{tmp_path / 's-01.tar'}/0004.png"
    make_shard(tmp_path / "z.tar.gz", range(2), "w:gz")
    assert [colour(item) for item in found(tmp_path / "z.tar.gz")] == [0, 1]


def test_a_damaged_shard_gives_what_is_before_the_damage_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    make_shard(path, range(4))
    path.write_bytes(path.read_bytes()[:2900])  # the second picture's header is whole, and its data is cut
    items = list(positioned(open_sources([path])))
    assert colour(items[0]) == 0
    assert items[-1].error is not None and "copy" in items[-1].error
    path.write_bytes(b"this is no tar file" * 100)
    (item,) = positioned(open_sources([path]))
    assert item.error is not None and "damaged or not a tar file" in item.error


@pytest.mark.parametrize("kind", ["", "gz", "xz", "bz2"])
def test_damage_anywhere_in_a_shard(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"s.{'tar.gz' if kind == 'gz' else 'tar'}"
    with tarfile.open(path, f"w:{kind}") as archive:  # type: ignore[call-overload]
        for n in range(4):
            data = random.Random(n).randbytes(9000)
            info = tarfile.TarInfo(f"{n}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    whole = path.read_bytes()
    for at in range(0, len(whole) - 64, 997):
        path.write_bytes(whole[:at] + random.Random(at).randbytes(64) + whole[at + 64 :])
        damaged = list(positioned(open_sources([path])))
        assert len(damaged) == 4 or damaged[-1].error is not None, "a picture is missed in silence"
        assert count(open_sources([path])) >= 1


def test_shards_are_read_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    noise = os.urandom(200_000)
    with tarfile.open(path, "w") as archive:
        for n in range(100):
            info = tarfile.TarInfo(f"{n}.png")
            info.size = len(noise)
            archive.addfile(info, io.BytesIO(noise))
    tracemalloc.start()
    for _ in positioned(open_sources([path])):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000, "20 MB of pictures, two at a time"


def test_a_missing_source_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"there are no pictures in .*empty$"):
        check([tmp_path / "empty"], Columns())
    make_shard(tmp_path / "empty" / "s.tar", range(1))
    with pytest.raises(RunError, match=r"for the \.tar files in it give '.*empty.*\*\.tar'"):
        check([tmp_path / "empty"], Columns())
    with pytest.raises(RunError, match=r"gone was not found"):
        check([tmp_path / "gone"], Columns())
    if sys.version_info < (3, 13):
        with pytest.raises(RunError, match=r"is not a pattern: \*\* stands for folders"):
            check([tmp_path / "**.png"], Columns())
    # One missing picture is a row of the outcome.
    (item,) = found(tmp_path / "gone.png")
    assert item.path == str(tmp_path / "gone.png")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text_are_shown_and_opened(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(png(7))
    (item,) = found(tmp_path)
    assert item.path.endswith("caf\\xe9.png") and colour(item) == 7
    item.key.encode()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_broken_rows_of_a_table_whose_name_is_no_text(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    Path(path).write_text('{"path": "a.png"}\nbroken\n', encoding="utf-8")
    assert found(path)[1].path.endswith("caf\\xe9.jsonl#1")


def test_paths_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piped = io.TextIOWrapper(io.BytesIO(b" a b.png\r\n\ncaf\xe9.png\n"), encoding="utf-8", errors="replace")
    monkeypatch.setattr(sys, "stdin", piped)
    assert stdin_list().paths == (" a b.png", "caf\udce9.png")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(RunError, match="there are no paths on standard input"):
        stdin_list()


def test_limit_reads_no_further(tmp_path: Path) -> None:
    make_pictures(tmp_path, 5)
    listed = tmp_path / "list.txt"
    listed.write_text("p0000.png\np0001.png\n", encoding="utf-8")
    items = positioned(open_sources([listed, tmp_path / "not there"]), limit=2)
    assert len(list(items)) == 2
    assert count(open_sources([listed, tmp_path / "not there"]), limit=2) == 2


def test_file_addresses_are_opened_as_everywhere(tmp_path: Path) -> None:
    picture = tmp_path / "a b.png"
    picture.write_bytes(png(1))
    (tmp_path / "list.txt").write_text(f"{picture.as_uri()}\n")
    (item,) = found(tmp_path / "list.txt")
    opened = Opener(Preprocess(), PictureLimits())(item)
    assert opened.error is None
    assert opened.picture is not None and opened.picture.digest == open_picture(picture).digest


def test_fsspec_addresses(tmp_path: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    for n in range(4):
        fs.pipe(f"/bucket/photos/{n}.png", png(n))
    fs.pipe("/bucket/photos/notes.txt", b"0.png\n")
    items = found("memory://bucket/photos")
    assert [item.path for item in items] == [f"memory:///bucket/photos/{n}.png" for n in range(4)]
    assert [item.path for item in found("memory://bucket/photos/[12].png")] == [items[1].path, items[2].path]
    assert found("memory://bucket/photos/notes.txt")[0].path.endswith("bucket/photos/0.png")
    with pytest.raises(RunError, match="was not found"):
        found("memory://bucket/none")
