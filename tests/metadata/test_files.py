"""Files around the metadata: what is written where, and that nothing is lost when something goes wrong."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import blip2_chat
from blip2_chat import MetadataError, write_caption
from blip2_chat.images import open_picture
from blip2_chat.metadata import files
from blip2_chat.metadata.packet import DC, IPTC, OWN, Packet
from tests.metadata.variants import PACKET, image
from tests.support.forking import called
from tests.support.metadata_tools import write_until

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    image().save(path)
    return path


def embedded(path: Path) -> Packet:
    with Image.open(path) as opened:
        return Packet(opened.info["xmp"])


def embed(path: Path, text: str = "a dog", **more: Any) -> str:
    return write_caption(path, text, embed=True, model="demo", **more)


def test_a_sidecar_file_is_next_to_the_picture_which_is_not_touched(photo: Path) -> None:
    before = photo.read_bytes(), photo.stat().st_mtime_ns
    assert write_caption(photo, "a dog", alt="dog", tags=["dog"], model="demo") == "written"
    packet = Packet(Path(f"{photo}.xmp").read_bytes())
    assert packet.text(DC, "description") == "a dog" and packet.text(IPTC, "AltTextAccessibility") == "dog"
    assert packet.items(DC, "subject") == ["dog"] and packet.text(OWN, "Model") == "demo"
    assert (photo.read_bytes(), photo.stat().st_mtime_ns) == before
    assert write_caption(photo, "a dog", alt="dog", tags=["dog"], model="demo") == "unchanged"


def test_adobes_name_unless_two_pictures_would_share_it(photo: Path) -> None:
    write_caption(photo, "a dog", style="adobe")
    assert photo.with_suffix(".xmp").exists()
    other = photo.with_suffix(".png")
    image().save(other)
    write_caption(other, "a cat", style="adobe")
    assert Path(f"{other}.xmp").exists()
    assert Packet(photo.with_suffix(".xmp").read_bytes()).text(DC, "description") == "a dog"


def test_a_sidecar_file_of_another_program_keeps_everything_else(photo: Path) -> None:
    sidecar = Path(f"{photo}.xmp")
    sidecar.write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n{PACKET}', encoding="utf-8")
    sidecar.chmod(0o640)
    assert write_caption(photo, "a dog") == "written"
    packet = Packet(sidecar.read_bytes())
    assert packet.text(DC, "title") == "title" and packet.text(DC, "description") == "a dog"
    assert packet.text("http://ns.adobe.com/xap/1.0/", "Rating") == "3"
    assert stat.S_IMODE(sidecar.stat().st_mode) == 0o640 or os.name == "nt"


def test_a_new_sidecar_file_takes_over_what_the_picture_has(tmp_path: Path) -> None:
    """Programs that read a sidecar file do not look into the picture any more."""
    path = tmp_path / "photo.jpg"
    image().save(path, xmp=PACKET.encode())
    assert write_caption(path, "a dog") == "written"
    packet = Packet(Path(f"{path}.xmp").read_bytes())
    assert packet.text(DC, "title") == "title" and packet.text(DC, "description") == "a dog"


@pytest.mark.parametrize("to_embed", [False, True])
def test_a_text_in_the_other_place_counts_as_there(to_embed: bool, photo: Path) -> None:
    write_caption(photo, "my dog", alt="", embed=not to_embed)
    # As if a person had written it: without our record of it.
    where = photo if not to_embed else Path(f"{photo}.xmp")
    where.write_bytes(
        where.read_bytes().replace(b"blip2chat:Description>my dog", b"blip2chat:Description>MY DOG")
    )
    assert write_caption(photo, "a dog", alt="", embed=to_embed) == "kept"
    assert write_caption(photo, "a dog", alt="", embed=to_embed, overwrite=True) == "written"


def test_formats_without_a_place_are_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    image().save(path)
    with pytest.raises(
        MetadataError, match=r"JPEG, PNG, WebP and TIFF files, and it is none; give write='xmp'"
    ):
        embed(path)
    assert write_caption(path, "a dog") == "written" and Path(f"{path}.xmp").exists()
    (tmp_path / "a.png").write_bytes(b"<svg/>")
    with pytest.raises(MetadataError, match="it is none"):
        embed(tmp_path / "a.png")


@posix
def test_permissions_and_times(photo: Path) -> None:
    photo.chmod(0o604)
    os.utime(photo, ns=(10**18, 10**18))
    embed(photo, keep_times=True)
    assert (stat.S_IMODE(photo.stat().st_mode), photo.stat().st_mtime_ns) == (0o604, 10**18)
    # A changed file is newer, or backups and libraries would not notice.
    embed(photo, "another")
    assert stat.S_IMODE(photo.stat().st_mode) == 0o604 and photo.stat().st_mtime_ns > 10**18


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="extended attributes of Linux")
def test_extended_attributes_stay(photo: Path) -> None:
    try:
        os.setxattr(photo, "user.tag", b"holiday")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    embed(photo)
    assert os.getxattr(photo, "user.tag") == b"holiday"


@posix
def test_a_link_stays_a_link_and_its_picture_gets_the_caption(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    link = tmp_path / "album" / "linked.jpg"
    link.symlink_to(os.path.relpath(photo, link.parent))
    assert embed(link) == "written"
    assert link.is_symlink() and embedded(photo).text(DC, "description") == "a dog"


@posix
def test_a_picture_with_two_names_is_not_parted_from_the_other(photo: Path, tmp_path: Path) -> None:
    os.link(photo, tmp_path / "other.jpg")
    with pytest.raises(MetadataError, match="hard links"):
        embed(photo)
    assert photo.stat().st_ino == (tmp_path / "other.jpg").stat().st_ino


@posix
def test_a_write_protected_picture_stays_even_for_root(photo: Path) -> None:
    photo.chmod(0o444)
    before = photo.read_bytes()
    with pytest.raises(MetadataError, match=f"{photo}: it is write-protected"):
        embed(photo)
    assert photo.read_bytes() == before
    photo.chmod(0o644)
    embed(photo)
    photo.chmod(0o444)
    assert embed(photo) == "unchanged"  # nothing to write


@posix
def test_pipes_folders_and_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, words in ((tmp_path / "pipe.jpg", "regular file"), (tmp_path, "regular file|directory")):
        with pytest.raises(MetadataError, match=words):
            embed(path)
    with pytest.raises(MetadataError, match="was not found"):
        embed(tmp_path / "missing.jpg")


def test_another_program_that_changes_the_file_meanwhile_wins(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = files._copy_attributes

    def and_then_somebody_saves(source: Path, target: str, seen: os.stat_result) -> None:
        copied(source, target, seen)
        image(shade=99).save(photo)

    monkeypatch.setattr(files, "_copy_attributes", and_then_somebody_saves)
    with pytest.raises(MetadataError, match="another program has changed it meanwhile"):
        embed(photo)
    assert "xmp" not in Image.open(photo).info and os.listdir(photo.parent) == ["photo.jpg"]


def test_another_picture_than_the_captioned_one_gets_no_caption(photo: Path) -> None:
    digest = open_picture(photo).digest
    image(shade=99).save(photo)
    before = photo.read_bytes()
    caption = files.CaptionText("a dog", "a dog")
    with pytest.raises(MetadataError, match="another picture than the one that was captioned"):
        files.write_metadata(photo, caption, files.Places(embed=True), digest=digest)
    assert photo.read_bytes() == before


def test_pixels_that_would_change_are_noticed(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check is for: a fault in the code that writes."""
    from blip2_chat.metadata.containers import Container

    right = Container.with_packet

    def wrong(self: Container, data: bytes, packet: Packet) -> bytes:
        made = right(self, data, packet)
        return made[:-40] + b"\x55" * 20 + made[-20:]

    monkeypatch.setattr(Container, "with_packet", wrong)
    before = photo.read_bytes()
    with pytest.raises(MetadataError, match="its pixels would be others"):
        embed(photo)
    assert photo.read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("mount"), reason="mounts a small disk")
def test_a_full_disk_leaves_the_picture_whole(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("needs root")
    try:
        photo = disk / "photo.jpg"
        image(size=(180, 140)).save(photo, quality=95)
        before = photo.read_bytes()
        (disk / "filler").write_bytes(b"x" * (64 * 1024 - 4096 - len(before) - 4096))
        with pytest.raises(MetadataError, match="No space left"):
            embed(photo)
        assert photo.read_bytes() == before and sorted(os.listdir(disk)) == ["filler", "photo.jpg"]
    finally:
        subprocess.run(["umount", disk], check=True)


@posix
def test_killed_while_writing_the_old_or_the_new_file_is_there_whole(photo: Path) -> None:
    """The process ends at each of the moments between the first byte and the new name."""
    pixels = open_picture(photo).digest
    old, outcomes = photo.read_bytes(), set()
    for moment in range(1, 60, 4):
        photo.write_bytes(old)
        code, _, err = called(write_until, moment, str(photo))
        assert code in (0, 9), err
        is_old = photo.read_bytes() == old
        outcomes.add((code, is_old))
        assert is_old or embedded(photo).text(DC, "description") == "a dog"
        assert open_picture(photo).digest == pixels
        # The next attempt is not in the way of what this one left behind.
        assert embed(photo) in ("written", "unchanged")
        assert os.listdir(photo.parent) == ["photo.jpg"]
    assert (9, True) in outcomes


def test_bad_parameters_are_named() -> None:
    with pytest.raises(MetadataError, match="tags is one text"):
        write_caption("a.jpg", "x", tags="dog")  # type: ignore[arg-type]
    with pytest.raises(MetadataError, match="style='lightroom' is none of digikam, adobe"):
        write_caption("a.jpg", "x", style="lightroom")  # type: ignore[arg-type]
    assert blip2_chat.write_caption is write_caption
