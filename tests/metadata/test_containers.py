"""Captions in files of many variants: two other programs read them, and nothing else has changed."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageSequence

from blip2_chat import MetadataError, write_caption
from blip2_chat.images import open_picture
from blip2_chat.metadata.caption import CaptionText
from blip2_chat.metadata.containers import container
from blip2_chat.metadata.merge import merge
from blip2_chat.metadata.packet import Packet
from tests.metadata.variants import VARIANTS, jpeg, png, tiff, tiffcp, webp
from tests.support.metadata_tools import exiftool, exiv2, make, needs_tools

pytestmark = needs_tools

TEXT = "a dog & an apple, «schön»"
OURS = {
    "XMP-dc:Description": TEXT,
    "XMP-iptcCore:AltTextAccessibility": TEXT,
    "XMP-dc:Subject": ["dog", "apple"],
    "XMP-blip2chat:Model": "demo",
}


def caption(path: Path, text: str = TEXT, **more: Any) -> str:
    return write_caption(path, text, tags=["dog", "apple"], model="demo", embed=True, **more)


def frames(path: Path) -> list[tuple[str, tuple[int, int], bytes]]:
    with Image.open(path) as image:
        return [(one.mode, one.size, one.tobytes()) for one in ImageSequence.Iterator(image)]


def others(tags: dict[str, Any]) -> dict[str, Any]:
    """What exiftool says of anything but XMP, the file itself, and the places of things in it."""
    groups = (
        "XMP-dc",
        "XMP-iptc",
        "XMP-blip2chat",
        "XMP-x",
        "File",
        "System",
        "ExifTool",
        "SourceFile",
        "Composite",
    )
    moving = ("MPImageStart", "MPImageLength", "WebP_Flags", "ImageWidth", "ImageHeight", "ThumbnailOffset")
    return {
        name: value
        for name, value in tags.items()
        if (not name.startswith(groups) and not name.endswith(moving)) or name == "XMP-dc:Title"
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_keeps_everything_and_is_read_by_others(variant: str, tmp_path: Path) -> None:
    path = VARIANTS[variant](tmp_path)
    old, pixels, before = path.read_bytes(), frames(path), exiftool(path)
    digest = open_picture(path).digest
    assert caption(path) == "written"

    tags = exiftool(path)
    assert {name: tags.get(name) for name in OURS} == OURS
    read = exiv2(path)
    if not variant.startswith("bigtiff"):  # this exiv2 does not read BigTIFF
        assert read["Xmp.dc.description"] == f'lang="x-default" {TEXT}'
        assert read["Xmp.iptc.AltTextAccessibility"] == f'lang="x-default" {TEXT}'
        assert read["Xmp.dc.subject"] == "dog, apple"

    assert frames(path) == pixels and open_picture(path).digest == digest
    assert others(tags) == others(before)
    new = path.read_bytes()
    require_untouched(path.suffix, old, new)
    # Nothing to do a second time, and a longer text fits into the padding.
    assert caption(path) == "unchanged" and path.read_bytes() == new
    assert caption(path, f"{TEXT}, and a longer text", alt=TEXT) == "written"
    assert len(path.read_bytes()) == len(new)
    assert exiftool(path)["XMP-dc:Description"] == f"{TEXT}, and a longer text"


def require_untouched(suffix: str, old: bytes, new: bytes) -> None:
    """Every byte that belongs to no packet is where it was, in the same order."""
    begun = in_common(old, new)
    if suffix == ".tif":
        # Nothing has moved; changed are a pointer in the header, or the packet, or where and how long it is.
        packet = range(old.find(b"<?xpacket begin"), old.find(b"<?xpacket end") + 20)
        changed = [at for at in range(len(old)) if old[at] != new[at] and at not in packet]
        assert not changed or changed[-1] - changed[0] < 16
    elif suffix == ".webp":
        assert [one for one in chunks(new) if one[0] not in (b"XMP ", b"VP8X")] == [
            one for one in chunks(old) if one[0] not in (b"XMP ", b"VP8X")
        ]
    elif b"MPF\0" in old:
        scan = old.index(b"\xff\xda")
        assert new.endswith(old[scan:])
    else:
        ended = in_common(old[begun:][::-1], new[begun:][::-1])
        middle = old[begun : len(old) - ended]
        # What is gone is in the segment or chunk of the packet.
        near = old[max(0, begun - 80) : begun + 80]
        assert not middle or b"xmp" in near or b"xap" in near


def in_common(one: bytes, other: bytes) -> int:
    """The number of bytes with which both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def test_the_pictures_behind_the_first_one_are_still_found(tmp_path: Path) -> None:
    """A gain map or the other eye: with and without a packet that is there before."""
    for variant in ("jpeg of two pictures", "jpeg of two pictures with xmp"):
        path = VARIANTS[variant](tmp_path)
        before, image_bytes = exiftool(path), path.read_bytes()
        caption(path, "long " * 900)
        data, tags = path.read_bytes(), exiftool(path)
        assert data[int(tags["MPImage2:MPImageStart"]) :][:2] == b"\xff\xd8"
        with Image.open(path) as image:
            assert image.n_frames == 2
        grown = path.stat().st_size - len(image_bytes)
        lengths = [int(one["MPImage1:MPImageLength"]) for one in (before, tags)]
        assert lengths[1] - lengths[0] == grown > 0


def test_big_endian_bigtiff_which_pillow_does_not_open(tmp_path: Path) -> None:
    path = tiffcp(tmp_path, "-8", "-B")
    data = path.read_bytes()
    packet = Packet()
    merge(packet, CaptionText(TEXT, TEXT))
    kind = container(data)
    assert kind is not None
    path.write_bytes(kind.with_packet(data, packet))
    require_untouched(".tif", data, path.read_bytes())
    assert exiftool(path)["XMP-dc:Description"] == TEXT
    make("tiffcp", "-L", path, tmp_path / "c.tif")
    assert frames(tmp_path / "c.tif") == frames(tmp_path / "a.tif")


def test_extended_xmp_stays_whole_and_its_text_counts_as_there(tmp_path: Path) -> None:
    path = VARIANTS["jpeg extended xmp"](tmp_path)
    assert caption(path) == "written"
    tags = exiftool(path)
    assert len(tags["XMP-dc:Source"]) == 150_000 and tags["XMP-xmp:Rating"] == 3
    text = tmp_path / "long.txt"
    text.write_text("d" * 150_000)
    other = jpeg(tmp_path)
    make("exiftool", "-q", "-overwrite_original", f"-XMP-dc:Description<={text}", other)
    before = other.read_bytes()
    write_caption(other, TEXT, alt="", embed=True)
    assert other.read_bytes() == before


@pytest.mark.parametrize("place", ["-IPTC:Caption-Abstract", "-EXIF:ImageDescription", "-XMP-dc:Description"])
def test_a_caption_of_somebody_else_is_kept_wherever_it_is(place: str, tmp_path: Path) -> None:
    path = jpeg(tmp_path)
    make("exiftool", "-q", "-overwrite_original", f"{place}=Rex in the garden", path)
    before = path.read_bytes()
    assert write_caption(path, TEXT, alt="", embed=True) == "kept"
    assert path.read_bytes() == before
    assert write_caption(path, TEXT, alt="", embed=True, overwrite=True) == "written"
    assert exiftool(path)["XMP-dc:Description"] == TEXT


def test_what_a_camera_writes_by_itself_is_no_caption(tmp_path: Path) -> None:
    path = jpeg(tmp_path)
    make("exiftool", "-q", "-overwrite_original", "-EXIF:ImageDescription=OLYMPUS DIGITAL CAMERA", path)
    assert caption(path) == "written"


MAKERS = {"jpeg": jpeg, "png": png, "webp": webp, "tiff": tiff}


@pytest.mark.parametrize("kind", MAKERS)
def test_cut_short_anywhere_a_file_is_refused_in_one_line_or_written_soundly(
    kind: str, tmp_path: Path
) -> None:
    whole = MAKERS[kind](tmp_path)
    caption(whole)
    data = whole.read_bytes()
    path = tmp_path / f"cut{whole.suffix}"
    for size in [*range(0, 120, 7), *range(120, len(data), 499)]:
        path.write_bytes(data[:size])
        try:
            write_caption(path, "another text", embed=True, overwrite=True)
        except MetadataError as error:
            assert "\n" not in str(error) and str(error).startswith(str(path))
            assert path.read_bytes() == data[:size]
        else:
            assert open_picture(path)  # only what follows the picture is missing


@pytest.mark.parametrize("kind", MAKERS)
def test_flipped_bits_are_refused_in_one_line_or_written_soundly(kind: str, tmp_path: Path) -> None:
    draw = random.Random(kind)
    whole = MAKERS[kind](tmp_path)
    caption(whole)
    data = whole.read_bytes()
    path = tmp_path / f"flipped{whole.suffix}"
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[draw.randrange(len(data) if draw.random() < 0.5 else 200)] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            digest = open_picture(path).digest
        except Exception:
            digest = ""
        try:
            write_caption(path, "another text", embed=True, overwrite=True)
        except MetadataError as error:
            assert "\n" not in str(error) and path.read_bytes() == damaged
        else:
            assert open_picture(path).digest == digest


def test_two_packets_are_not_guessed_about(tmp_path: Path) -> None:
    path = jpeg(tmp_path)
    caption(path)
    data = path.read_bytes()
    at = data.index(b"\xff\xe1")
    size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    path.write_bytes(data[:at] + data[at : at + size] + data[at:])
    with pytest.raises(MetadataError, match="two XMP packets"):
        caption(path, "another")


def test_more_than_a_jpeg_holds_is_refused_and_a_png_takes_it(tmp_path: Path) -> None:
    path = jpeg(tmp_path)
    before = path.read_bytes()
    with pytest.raises(MetadataError, match="room for 65,504"):
        caption(path, "long " * 15_000)
    assert path.read_bytes() == before
    assert caption(png(tmp_path), "long " * 15_000) == "written"


def test_tools_are_there_in_ci() -> None:
    if os.environ.get("CI"):
        assert all(shutil.which(name) for name in ("exiftool", "exiv2", "cwebp", "webpmux", "tiffcp"))
