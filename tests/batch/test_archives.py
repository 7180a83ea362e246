"""Tar and zip files: every picture that a person who unpacks them would find, and no more memory than one takes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from blip2_chat.batch.inputs.sources import open_sources
from blip2_chat.batch.items import Item, count, positioned
from tests.support.sources import add, colour, make_shard, png


def found(path: Path) -> list[Item]:
    items = list(positioned(open_sources([path])))
    assert count(open_sources([path])) == len(items)
    return items


def named(items: list[Item], path: Path) -> dict[str, int | str | None]:
    return {
        one.path.removeprefix(f"{path}/"): one.error if one.picture is None else colour(one) for one in items
    }


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tgz", "tbz2", "txz"])
def test_links_count_as_the_pictures_they_lead_to(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"s.{kind}"
    mode = {"tar": "w", "tgz": "w:gz", "tbz2": "w:bz2", "txz": "w:xz"}.get(
        kind, f"w:{kind.rpartition('.')[2]}"
    )
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        add(archive, "d/later.png", kind=tarfile.SYMTYPE, link="two.png")
        add(archive, "d/one.png", png(1))
        add(archive, "d/hard.png", kind=tarfile.LNKTYPE, link="d/one.png")
        add(archive, "./d/two.png", png(2))
        add(archive, "up/again.png", kind=tarfile.SYMTYPE, link="../d/hard.png")
        add(archive, "alias", kind=tarfile.SYMTYPE, link="d")
        add(archive, "through.png", kind=tarfile.SYMTYPE, link="alias/two.png")
        add(archive, "round.png", kind=tarfile.SYMTYPE, link="round.png")
        add(archive, "outside.png", kind=tarfile.SYMTYPE, link="/etc/hostname")
        add(archive, "annex", kind=tarfile.SYMTYPE, link="d/one.png")
        add(archive, "notes.txt", b"words")
        add(archive, "more.txt", kind=tarfile.LNKTYPE, link="notes.txt")
    nowhere = "{} is a link to a file that is not in the shard"
    assert named(found(path), path) == {
        "d/one.png": 1,
        "./d/two.png": 2,
        "outside.png": nowhere.format(f"{path}/outside.png"),
        "round.png": nowhere.format(f"{path}/round.png"),
        "annex": 1,
        "d/hard.png": 1,
        "up/again.png": 1,
        "d/later.png": 2,
        "through.png": 2,
    }


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_link_to_the_first_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"s.{kind}"
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
        add(archive, "one.png", png(1))
        add(archive, "soft.png", kind=tarfile.SYMTYPE, link="one.png")
        add(archive, "hard.png", kind=tarfile.LNKTYPE, link="one.png")
    assert named(found(path), path) == {"one.png": 1, "soft.png": 1, "hard.png": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="its tar is another")
def test_a_tar_as_the_program_tar_makes_it(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a.png").write_bytes(png(1))
    os.link(inside / "a.png", inside / "b.png")
    (inside / "c.png").symlink_to("a.png")
    (inside / "d").write_bytes(png(4))
    subprocess.run(["tar", "-cf", tmp_path / "s.tar", "in"], cwd=tmp_path, check=True)
    assert sorted(colour(item) for item in found(tmp_path / "s.tar")) == [1, 1, 1, 4]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_tars_one_behind_the_other(tmp_path: Path, kind: str) -> None:
    mode = "w:gz" if kind == "tar.gz" else "w"
    for number in range(3):
        make_shard(tmp_path / f"{number}.{kind}", range(2 * number, 2 * number + 2), mode)
    path = tmp_path / f"all.{kind}"
    path.write_bytes(b"".join((tmp_path / f"{number}.{kind}").read_bytes() for number in range(3)))
    assert [colour(item) for item in found(path)] == [0, 1, 2, 3, 4, 5]
    if kind == "tar":
        whole = path.read_bytes()
        second = len(whole) // 3
        path.write_bytes(whole[:second] + b"x" + whole[second + 1 :])  # the second tar's first header
        *good, bad = found(path)
        assert [colour(item) for item in good] == [0, 1]
        assert bad.error is not None and "damaged" in bad.error


def test_pictures_in_a_tar_are_recognised_by_content(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in {
            "noending": png(1),
            "odd.dat": png(2),
            "words": b"words",
            "film.mp4": b"\0\0\0\x18ftypmp42",
            "empty": b"",
            "._x.png": png(9),
            "__MACOSX/y.png": png(9),
            ".thumbs/z.png": png(9),
        }.items():
            add(archive, name, data)
    assert [colour(item) for item in found(path)] == [1, 2]


def test_a_member_that_unpacks_to_gigabytes_is_not_held(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "s.tar.gz"
    info = tarfile.TarInfo("big.png")
    info.size = 400_000_000
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(400):
            file.write(bytes(1_000_000))
        file.write(bytes(-info.size % 512) + bytes(1024))
    tracemalloc.start()
    (item,) = positioned(open_sources([path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250_000_000
    assert item.picture is not None and len(item.picture.getvalue()) == 50 * 2**20 + 1


def make_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_a_zip_file(tmp_path: Path) -> None:
    path = tmp_path / "p.ZIP"
    members = {
        "b.png": png(1),
        "in/a.jpg": png(2),
        "in/noending": png(3),
        "notes.txt": b"words",
        "__MACOSX/._b.png": b"\0\5",
        "../up.png": png(4),
        "/abs.png": png(5),
        ".hidden.png": png(6),
    }
    make_zip(path, members)
    with zipfile.ZipFile(path, "a") as archive:
        for name, target in (("in/link.png", "../b.png"), ("in/out.png", "/etc/hostname")):
            link = zipfile.ZipInfo(name)
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, target)
    *good, last = found(path)
    assert named(good, path) == {
        "b.png": 1,
        "in/a.jpg": 2,
        "in/noending": 3,
        "../up.png": 4,
        "/abs.png": 5,
        "in/link.png": 1,
    }
    assert last.error == f"{path}/in/out.png is a link to a file that is not in the zip file"
    assert sorted(os.listdir(tmp_path)) == ["p.ZIP"], "nothing is unpacked"


def test_zip_files_that_are_damaged_encrypted_or_bombs(tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    make_zip(path, {"a.png": png(1), "b.png": png(2), "c.png": png(3)})
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        second = archive.getinfo("b.png").header_offset
    path.write_bytes(whole[: second + 45] + b"\xff\xff\xff" + whole[second + 48 :])
    first, bad, third = found(path)
    assert (colour(first), colour(third)) == (1, 3)
    assert bad.error is not None and "b.png is damaged" in bad.error

    encrypted = bytearray(whole)
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = 0
        while (start := encrypted.find(mark, start)) >= 0:
            encrypted[start + at] |= 1
            start += 4
    path.write_bytes(encrypted)
    (item,) = found(path)
    assert item.error == f"{path} has 3 encrypted pictures; unpack it and give the folder"

    path.write_bytes(b"this is no zip file")
    (item,) = found(path)
    assert item.error is not None and "is damaged or not a zip file" in item.error

    make_zip(path, {"bomb.png": bytes(300_000_000), "bomb": bytes(300_000_000), "good.png": png(7)})
    tracemalloc.start()
    items = positioned(open_sources([path]))
    bomb = next(items)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250_000_000 and bomb.picture is not None
    assert [colour(item) for item in items] == [7]
