"""Removing PNG chunks that do not affect the pixels, which may be damaged, or huge when decompressed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PICTURE, _PIXELS = (b"IHDR", b"PLTE"), b"IDAT"
_TRANSPARENCY, _EXIF, _END = b"tRNS", b"eXIf", b"IEND"
# Chunks in which editors store the orientation.
_NOTES = (b"XML:com.adobe.xmp", b"Raw profile type exif")
_LONGEST_NOTE = 2**20
# With chunks of 8 kB, as most programs write them, a picture of 50 MiB has 6,400.
_MOST_CHUNKS = 300_000


def essential(data: bytes) -> bytes:
    """The file reduced to the chunks of its first picture and its end marker.

    Text, colour profiles and further frames of an animation are removed. So are ancillary chunks with a wrong
    checksum, which other programs ignore as well; damaged chunks of the picture itself are kept, so that the
    decoder reports them. A truncated last chunk is kept as far as it goes.
    Raises ValueError for a file with so many chunks that it must be malicious.
    """
    kept, pixels = [SIGNATURE], []
    notes = 0
    for number, (kind, body, intact) in enumerate(_chunks(data)):
        if number == _MOST_CHUNKS:
            raise ValueError(f"more than {_MOST_CHUNKS:,} chunks")
        if kind == _END:
            break
        if kind == _PIXELS:
            pixels.append(body)
        elif kind in _PICTURE:
            checksum = zlib.crc32(body, zlib.crc32(kind))
            # The decoder checks it, so a wrong checksum has to stay wrong.
            kept.append(_chunk(kind, body, checksum if intact else checksum ^ 1))
        elif intact and (kind == _TRANSPARENCY or (notes < 3 and _tells_orientation(kind, body))):
            notes += kind != _TRANSPARENCY
            kept.append(_chunk(kind, body, zlib.crc32(body, zlib.crc32(kind))))
    # Merged into one chunk, because Pillow goes through thousands of chunks in Python.
    whole = b"".join(pixels)
    return b"".join(
        [
            *kept,
            _chunk(_PIXELS, whole, zlib.crc32(whole, zlib.crc32(_PIXELS))),
            _chunk(_END, b"", zlib.crc32(_END)),
        ]
    )


def _chunk(kind: bytes, body: bytes, checksum: int) -> bytes:
    return b"".join((len(body).to_bytes(4, "big"), kind, body, checksum.to_bytes(4, "big")))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(kind, body, whether its checksum is right) of each chunk."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        told = data[at + 8 + length : at + 12 + length]
        yield kind, body, told == zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big")
        at += 12 + length


def _tells_orientation(kind: bytes, body: bytes) -> bool:
    if len(body) > _LONGEST_NOTE:
        return False
    if kind == _EXIF:
        return True
    name, _, rest = body.partition(b"\0")
    if kind not in (b"tEXt", b"zTXt", b"iTXt") or name not in _NOTES:
        return False
    if kind == b"zTXt":
        return _unpacks(rest[1:])
    if kind == b"iTXt" and rest[:1] == b"\1":
        return _unpacks(rest[2:].split(b"\0", 2)[-1])
    return True


def _unpacks(packed: bytes) -> bool:
    """Whether a metadata chunk is complete and has a reasonable size when decompressed."""
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, _LONGEST_NOTE)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail
