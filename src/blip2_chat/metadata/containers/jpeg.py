"""XMP in JPEG: a segment APP1, further ones for what does not fit into it (Extended XMP)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import MetadataError
from .patches import Found, Patch

_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED = b"http://ns.adobe.com/xmp/extension/\0"
_APP0, _APP1, _APP2, _START_OF_SCAN, _END = 0xE0, 0xE1, 0xE2, 0xDA, 0xD9
_MP_FORMAT = b"MPF\0"
_MP_ENTRIES = 0xB002
# A segment's length is 16 bits and counts itself.
MOST_BYTES = 65533 - len(_HEADER)


@dataclass(frozen=True)
class _Segment:
    """start: of its marker. end: of its content. content: start of the content, after marker and length."""

    marker: int
    start: int
    content: int
    end: int


def find(data: bytes) -> Found:
    """Raises `MetadataError` for a truncated file, and for two packets."""
    segments = list(_segments(data))
    # JFIF's and Exif's segments have to be the first.
    at = 2
    for segment in segments:
        body = data[segment.content : segment.end]
        if segment.start != at or not (
            segment.marker == _APP0 or (segment.marker == _APP1 and body.startswith(b"Exif\0"))
        ):
            break
        at = segment.end
    packets = []
    extended: dict[bytes, dict[int, bytes]] = {}
    for segment in segments:
        if segment.marker != _APP1:
            continue
        body = data[segment.content : segment.end]
        if body.startswith(_HEADER):
            packets.append((segment, body[len(_HEADER) :]))
        elif body.startswith(_EXTENDED):
            # A hash of the whole, its length, and the place of this part in it.
            name, parts = body[len(_EXTENDED) : len(_EXTENDED) + 32], body[len(_EXTENDED) + 40 :]
            (place,) = struct.unpack(">I", body[len(_EXTENDED) + 36 : len(_EXTENDED) + 40].rjust(4, b"\0"))
            extended.setdefault(name, {})[place] = parts
    if len(packets) > 1:
        raise MetadataError("it has two XMP packets, and programs differ in which they read")
    if not packets:
        return Found(None, at, at)
    segment, packet = packets[0]
    # Parts of an older extension may have been left behind: the packet names the one that is valid.
    more = [
        b"".join(part for _, part in sorted(parts.items()))
        for name, parts in extended.items()
        if name in packet
    ]
    return Found(packet, segment.start, segment.end, len(packet), tuple(more))


def place(data: bytes, found: Found, packet: bytes) -> list[Patch]:
    body = _HEADER + packet
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    moved = len(segment) - (found.end - found.start)
    patches = [Patch(found.start, found.end, segment)]
    if moved:
        for other in _segments(data):
            if other.marker == _APP2 and data[other.content : other.content + 4] == _MP_FORMAT:
                patches += _moved_pictures(data, other, found.start, moved)
    return patches


def _segments(data: bytes) -> Iterator[_Segment]:
    """The segments before the first scan; what follows is the picture, and whatever was put behind it."""
    at = 2
    while True:
        start = at
        if data[at : at + 1] != b"\xff":
            raise MetadataError("it is damaged: a JPEG segment does not begin where it should")
        while data[at : at + 1] == b"\xff":  # any number of them may stand before a marker
            at += 1
        marker = data[at] if at < len(data) else _END
        if marker == _START_OF_SCAN:
            return
        if marker == _END:
            raise MetadataError("it is cut short: it has no picture")
        size = int.from_bytes(data[at + 1 : at + 3], "big")
        end = at + 1 + size
        if size < 2 or end > len(data):
            raise MetadataError("it is cut short in the middle of a JPEG segment")
        yield _Segment(marker, start, at + 3, end)
        at = end


def _moved_pictures(data: bytes, segment: _Segment, at: int, moved: int) -> Iterator[Patch]:
    """Multi-Picture Format (CIPA DC-007): pictures behind the first one, such as gain maps, are found by their
    distance from this segment, and the first one's size is noted in it."""
    start = segment.content + len(_MP_FORMAT)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[start : start + 4])
    try:
        if order is None:
            raise ValueError
        (ifd,) = struct.unpack_from(f"{order}I", data, start + 4)
        (count,) = struct.unpack_from(f"{order}H", data, start + ifd)
        for number in range(count):
            tag, _, size, offset = struct.unpack_from(f"{order}HHII", data, start + ifd + 2 + 12 * number)
            if tag != _MP_ENTRIES:
                continue
            if start + offset + size > segment.end:
                raise ValueError
            for entry in range(start + offset, start + offset + size - 15, 16):
                _, length, distance = struct.unpack_from(f"{order}III", data, entry)
                if distance == 0:
                    length += moved
                elif at > start:
                    distance += moved
                yield Patch(entry + 4, entry + 12, struct.pack(f"{order}II", length, distance))
    except (ValueError, struct.error):
        raise MetadataError(
            "it holds several pictures (MPF) in a form that is not understood; they would be lost"
        ) from None
