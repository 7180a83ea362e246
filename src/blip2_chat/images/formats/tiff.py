"""TIFF files whose samples Pillow would refuse or unpack wrongly."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from PIL import Image, TiffImagePlugin

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR = 258, 262, 277, 284
_TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT = 322, 323, 339
_SHORT, _LONG = 3, 4
_SIZES = {_SHORT: 2, _LONG: 4}
_LONGEST_DIRECTORY = 4096
# libtiff converts samples to the byte order of the machine.
_TURNED = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}


@dataclass(frozen=True)
class Readable:
    """A TIFF rewritten for Pillow. `truly`: the original values of the tags that were changed."""

    data: bytes
    truly: dict[int, int | tuple[int, ...]]
    tile: int
    """Pixels of one tile; 0 if the picture is not cut into tiles."""


def readable(data: bytes) -> Readable:
    """The file with WhiteIsZero declared as BlackIsZero, and 32-bit unsigned samples declared as signed, in its
    first page.

    Pillow reads such grey in one byte order only, or not at all, and never converts samples of more than 8 bits
    for these tags; the caller has to. Other files are returned unchanged.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return Readable(data, {}, 0)
    entries = _first_directory(data, order)
    single = {tag: value for tag, (value, _) in entries.items()}
    tile = single.get(_TILE_WIDTH, 0) * single.get(_TILE_LENGTH, 0)
    bits, kind = single.get(_BITS, 1), single.get(_SAMPLE_FORMAT, 1)
    changes: dict[int, tuple[int, int]] = {}
    if single.get(_SAMPLES, 1) == 1 and (bits > 8 or kind == 2):
        if single.get(_PHOTOMETRIC) == 0:
            changes[_PHOTOMETRIC] = (1, 0)
        if bits == 32 and kind == 1 and order == ">" and _SAMPLE_FORMAT in entries:
            changes[_SAMPLE_FORMAT] = (2, 1)
    if not changes:
        return Readable(data, {}, tile)
    patched = bytearray(data)
    truly: dict[int, int | tuple[int, ...]] = {}
    for tag, (told, true) in changes.items():
        at = entries[tag][1]
        struct.pack_into(order + "H", patched, at, told)
        truly[tag] = (true,) if tag == _SAMPLE_FORMAT else true
    return Readable(bytes(patched), truly, tile)


def mend(image: Image.Image) -> None:
    """Before a TIFF is loaded, correct how Pillow (13 and before) would unpack some of its samples.

    In compressed files, signed and float samples whose byte order is not the machine's are swapped, and
    uncompressed planes of 16-bit samples are read as 8-bit ones. Other images are unchanged.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    bits = image.tag_v2.get(_BITS, ())
    wide_planes = image.tag_v2.get(_PLANAR) == 2 and isinstance(bits, tuple) and set(bits) == {16}
    order = "B" if image.tag_v2.prefix == b"MM" else "L"
    for number, tile in enumerate(image.tile):
        if not isinstance(tile.args, tuple) or not isinstance(tile.args[0], str):
            continue
        mode = tile.args[0]
        if tile.codec_name == "libtiff":
            mode = _TURNED.get(mode, mode)
        elif wide_planes and len(mode) == 1:
            mode = f"{mode};16{order}"
        image.tile[number] = tile._replace(args=(mode, *tile.args[1:]))


def _first_directory(data: bytes, order: str) -> dict[int, tuple[int, int]]:
    """{tag: (value, position)} of tags with a single number; {} for a directory that cannot be read."""
    big = data[2:4] in (b"+\0", b"\0+")
    head, count, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    where = 8 if big else 4
    found: dict[int, tuple[int, int]] = {}
    try:
        (at,) = struct.unpack_from(order + head, data, where)
        (entries,) = struct.unpack_from(order + count, data, at)
        at += struct.calcsize(order + count)
        for _ in range(min(entries, _LONGEST_DIRECTORY)):
            tag, kind, values = struct.unpack_from(order + entry, data, at)
            place = at + struct.calcsize(order + entry)
            if values == 1 and kind in _SIZES:
                (value,) = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), data, place)
                # A LONG in the file's big-endian order has its low half last.
                found[tag] = (value, place if kind == _SHORT or order == "<" else place + 2)
            at = place + (8 if big else 4)
    except (struct.error, OverflowError):
        return {}
    return found
