"""XMP in WebP: a chunk "XMP " of the extended file format, and a flag in its header, the chunk VP8X."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ...errors import MetadataError
from .patches import Found, Patch

_HAS_XMP = 0x04
_HAS_ALPHA = 0x10


def find(data: bytes) -> Found:
    packets = [(start, end, body) for kind, start, end, body in _chunks(data) if kind == b"XMP "]
    if len(packets) > 1:
        raise MetadataError("it has two XMP packets, and programs differ in which they read")
    if not packets:
        end = _end(data)
        return Found(None, end, end)
    start, end, (first, last) = packets[0]
    return Found(data[first:last], start, end, last - first)


def place(data: bytes, found: Found, packet: bytes) -> list[Patch]:
    chunks = list(_chunks(data))
    kind, start, _, (first, last) = chunks[0]
    # A chunk of odd length is padded, which some programs forget at the end of the file.
    gap = b"\0" * (found.start == found.end and found.end % 2)
    chunk = gap + b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    patches = [Patch(found.start, found.end, chunk)]
    if kind == b"VP8X":
        if last - first < 10:
            raise MetadataError("it is damaged: its header is too short")
        patches.append(Patch(first, first + 1, bytes([data[first] | _HAS_XMP])))
    else:
        patches.append(Patch(start, start, _header(kind, data[first : first + 10])))
    size = _end(data) - 8 + sum(len(one.content) - (one.end - one.start) for one in patches)
    return [Patch(4, 8, struct.pack("<I", size)), *patches]


def _end(data: bytes) -> int:
    """Where the file ends by its own account; whatever follows is no part of it."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise MetadataError("it is cut short: WebP's header promises more")
    return end


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int, tuple[int, int]]]:
    """(type, start, end with padding, (start, end) of the content) of each chunk."""
    at, end = 12, _end(data)
    if at + 8 > end:
        raise MetadataError("it has no picture")
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        last = at + 8 + size
        if last > end:
            raise MetadataError("it is cut short in the middle of a WebP chunk")
        after = min(last + size % 2, end)
        yield data[at : at + 4], at, after, (at + 8, last)
        at = after


def _header(kind: bytes, frame: bytes) -> bytes:
    """The header of the extended format for a file of the simple one, from the first bytes of its picture."""
    if kind == b"VP8 " and frame[3:6] == b"\x9d\x01\x2a" and len(frame) == 10:
        width, height = (size & 0x3FFF for size in struct.unpack("<HH", frame[6:10]))
        flags = _HAS_XMP
    elif kind == b"VP8L" and frame[:1] == b"\x2f" and len(frame) >= 5:
        bits = int.from_bytes(frame[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags = _HAS_XMP | _HAS_ALPHA * (bits >> 28 & 1)
    else:
        raise MetadataError("it is damaged: it does not begin with a WebP picture")
    sizes: bytes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X" + struct.pack("<IB3x", 10, flags) + sizes
