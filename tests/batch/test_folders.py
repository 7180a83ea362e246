"""Folders, patterns and lists as people have them: what is found, what is passed over, and what is missing."""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from blip2_chat.batch.errors import RunError
from blip2_chat.batch.inputs.sources import check, open_sources, stdin_list
from blip2_chat.batch.inputs.tables import Columns
from blip2_chat.batch.items import Item, count, positioned
from tests.support.batch import make_pictures
from tests.support.sources import colour, make_shard, png

links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def found(
    *sources: Path | str, exclude: tuple[str, ...] = (), passed: Counter[str] | None = None
) -> list[Item]:
    items = list(positioned(open_sources(sources, exclude=exclude, passed=passed, chunk=2)))
    assert count(open_sources(sources, exclude=exclude)) == len(items)
    return items


def names(items: list[Item], folder: Path) -> list[str]:
    return [os.path.relpath(item.path, folder).replace("\\", "/") for item in items]


def encoded(kind: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (9, 7), (3, 2, 1)).save(data, kind)
    return data.getvalue()


def test_every_picture_that_caption_opens_and_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    for name, data in {
        "a.mpo": encoded("JPEG"),
        "b.apng": encoded("PNG"),
        "c.dib": encoded("DIB"),
        "d.pbm": b"P1\n1 1\n1\n",
        "e.J2K": b"\xff\x4f\xff\x51",  # found, whatever comes of opening it
        "IMG_0001": encoded("PNG"),
        "frame.0001": encoded("JPEG"),
        "x.bin": encoded("GIF"),
        "film.mp4": b"\0\0\0\x18ftypmp42",
        "film.MKV": b"\x1a\x45\xdf\xa3",
        "song.mp3": b"ID3",
        "notes.txt": b"words",
        "a.txt": b"a caption: text of a picture is not worth a word",
        "raw.CR2": b"II*\0",
        "noending": b"words",
    }.items():
        (tmp_path / name).write_bytes(data)
    pictures = ["IMG_0001", "a.mpo", "b.apng", "c.dib", "d.pbm", "e.J2K", "frame.0001", "x.bin"]
    kinds = {"video": 2, "audio file": 1, "text file": 1, "camera raw file": 1, "other file": 1}
    passed: Counter[str] = Counter()
    assert names(found(tmp_path, passed=passed), tmp_path) == pictures
    assert passed == kinds
    passed.clear()
    (tmp_path / "notes.txt").unlink()  # of a pattern, a text file is a list
    assert names(found(tmp_path / "*", passed=passed), tmp_path) == pictures
    del kinds["text file"]
    assert passed == kinds
    with pytest.raises(RunError, match=r"there are no pictures in .* \(2 videos\)$"):
        found(tmp_path / "film.*")


@links
def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    album, other = tmp_path / "album", tmp_path / "other"
    make_pictures(album, 4)
    make_pictures(other, 2, seed=1)
    (other / "deep").mkdir()
    (other / "deep" / "z.png").write_bytes(png(9))
    (album / "a-link").symlink_to(other)
    (album / "b-link").symlink_to(other)
    (album / "inner-link").symlink_to(album / "inner")
    (album / "inner" / "up").symlink_to(album)
    (album / "inner" / "top").symlink_to(tmp_path)
    (other / "back").symlink_to(album)
    (album / "nowhere").symlink_to(tmp_path / "gone")
    passed: Counter[str] = Counter()
    assert names(found(album, passed=passed), album) == [
        "p0000.png",
        "p0001.png",
        "p0002.png",
        "inner/p0003.png",
        "a-link/p0000.png",
        "a-link/p0001.png",
        "a-link/deep/z.png",
    ]
    assert passed == {"repeated folder link": 5, "other file": 1}


@pytest.mark.parametrize(
    "pattern, left",
    [
        ("@eaDir", ["keep/b.png", "thumbs.png"]),
        ("thumb*", ["@eaDir/a.png", "keep/b.png"]),
        ("keep/b.*", ["@eaDir/a.png", "thumbs.png"]),
        ("keep/", ["@eaDir/a.png", "thumbs.png"]),
        ("*.PNG", ["@eaDir/a.png", "keep/b.png", "thumbs.png"]),
    ],
)
def test_exclude(tmp_path: Path, pattern: str, left: list[str]) -> None:
    for name in ("@eaDir/a.png", "keep/b.png", "thumbs.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    passed: Counter[str] = Counter()
    assert sorted(names(found(tmp_path, exclude=(pattern,), passed=passed), tmp_path)) == left
    assert bool(passed) == (len(left) < 3)
    assert sorted(names(found(tmp_path / "**" / "*.png", exclude=(pattern,)), tmp_path)) == left


def test_lines_of_a_list_are_names_as_they_stand(tmp_path: Path) -> None:
    odd = [
        "#1 farm.png",
        " lead.png",
        "trail.png ",
        "100%.png",
        'quo"ted.png',
        "street é.png",
        "[1].png",
        "{1..2}.png",
    ]
    if sys.platform == "win32":
        odd = [name for name in odd if '"' not in name and name == name.rstrip()]
    for number, name in enumerate(odd, 1):
        (tmp_path / name).write_bytes(png(number))
    listed = tmp_path / "list.txt"
    lines = [*odd, "# a comment", "", "  100%.png ", '"100%.png"', "gone.png"]
    listed.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    passed: Counter[str] = Counter()
    *items, gone = found(listed, passed=passed)
    again = odd.index("100%.png") + 1
    assert [colour(item) for item in items] == [*range(1, len(odd) + 1), again, again]
    assert gone.path == str(tmp_path / "gone.png") and passed == {"comment line": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8", "utf-8-sig", "utf-32"])
def test_lists_and_tables_in_the_encodings_that_programs_write(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ä 1.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    lines = "b.png\r\nä 1.png\r\n".encode(encoding)
    (tmp_path / "list.txt").write_bytes(lines)
    (tmp_path / "t.csv").write_bytes("file;x\r\nb.png;1\r\nä 1.png;2\r\n".encode(encoding))
    (tmp_path / "t.jsonl").write_bytes('{"file": "b.png"}\r\n{"file": "ä 1.png"}\r\n'.encode(encoding))
    for name in ("list.txt", "t.csv", "t.jsonl"):
        assert [colour(item) for item in found(tmp_path / name)] == [2, 1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert stdin_list().paths == ("b.png", "ä 1.png")


def test_a_list_that_is_not_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\xd8\x00\xd8a")
    with pytest.raises(RunError, match=r"list\.txt is not text .*; save it as UTF-8$"):
        found(tmp_path / "list.txt")


def test_a_missing_or_damaged_shard_or_table_is_a_row(tmp_path: Path) -> None:
    make_shard(tmp_path / "s-0.tar", range(2))
    make_shard(tmp_path / "s-2.tar", range(4, 6))
    first, second, gone, fourth, fifth = found(tmp_path / "s-{0..2}.tar")
    assert [colour(item) for item in (first, second, fourth, fifth)] == [0, 1, 4, 5]
    assert gone.path == str(tmp_path / "s-1.tar")
    assert gone.error == f"{tmp_path / 's-1.tar'} was not found; check the path"
    gone, *others = found(tmp_path / "gone.tar", tmp_path / "s-0.tar", tmp_path / "gone.csv")
    assert [item.error is None for item in others] == [True, True, False] and gone.error
    check([tmp_path / "gone.tar", tmp_path / "s-0.tar"], Columns())
    with pytest.raises(RunError, match=r"a-0\.tar was not found"):
        check([tmp_path / "a-{0..3}.tar"], Columns())
    with pytest.raises(RunError, match="folder was not found"):  # a slip of the pen, said before any work
        check([tmp_path / "folder", tmp_path / "s-0.tar"], Columns())

    (tmp_path / "a.csv").write_text("path\na.png\n", encoding="utf-8")
    (tmp_path / "b.csv").write_bytes(b"path\ncaf\xe9.png\n")
    (tmp_path / "c.csv").write_text("path\nc.png\n", encoding="utf-8")
    first, bad, last = found(tmp_path / "*.csv")
    assert bad.error is not None and "b.csv is not UTF-8" in bad.error
    assert (first.path, last.path) == (str(tmp_path / "a.png"), str(tmp_path / "c.png"))


def test_names_that_look_like_patterns_and_are_there_are_taken_literally(tmp_path: Path) -> None:
    for folder in ("x{1..2}", "photos[1]", "what?" if sys.platform != "win32" else "what"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(png(1))
        make_shard(tmp_path / folder / "s-0.tar", range(1))
        make_shard(tmp_path / folder / "s-1.tar", range(1))
        assert len(found(tmp_path / folder)) == 1
        assert len(found(tmp_path / folder / "*.png")) == 1
        assert len(found(tmp_path / folder / "s-{0..1}.tar")) == 2
        assert len(found(tmp_path / folder / "a.png")) == 1
    make_shard(tmp_path / "s{1..2}.tar", range(3))
    assert len(found(tmp_path / "s{1..2}.tar")) == 3
    assert len(found(tmp_path / "x{1..2}" / "s-{1..0}.tar")) == 2, "counts down as shells do"
    with pytest.raises(RunError, match="more than a million"):
        found(tmp_path / "s-{0..99999999}.tar")
