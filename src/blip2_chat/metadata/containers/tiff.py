"""XMP in TIFF and BigTIFF: tag 700 of the first directory.

Makers' notes and others hold offsets that are not known to be such, so nothing that is there may move: a packet
that does not fit into the old one's place goes to the end of the file, and so does the directory if it grows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ...errors import MetadataError
from .patches import Found, Patch

_XMP = 700
_BYTES = (1, 7)
_BYTE = 1


@dataclass(frozen=True)
class _Layout:
    """Formats of `struct` for a file's numbers: TIFF's, or BigTIFF's wider ones."""

    order: str
    is_big: bool

    @property
    def header(self) -> int:
        """Where the offset of the first directory is."""
        return 8 if self.is_big else 4

    @property
    def offset(self) -> str:
        return f"{self.order}{'Q' if self.is_big else 'I'}"

    @property
    def count(self) -> str:
        return f"{self.order}{'Q' if self.is_big else 'H'}"

    @property
    def entry(self) -> str:
        """Tag, type, count and value or offset."""
        return f"{self.order}{'HHQQ' if self.is_big else 'HHII'}"

    @property
    def inline(self) -> int:
        """A value of at most this many bytes is in the entry itself."""
        return struct.calcsize(self.offset)


@dataclass(frozen=True)
class _Directory:
    layout: _Layout
    start: int
    end: int
    entries: tuple[bytes, ...]
    after: bytes  # the offset of the next one

    def tag(self, number: int) -> int:
        tag: int = struct.unpack_from(f"{self.layout.order}H", self.entries[number])[0]
        return tag


def find(data: bytes) -> Found:
    """`start` and `end` are the packet's own bytes, or the end of the file."""
    directory = _directory(data)
    for number in range(len(directory.entries)):
        if directory.tag(number) != _XMP:
            continue
        _, kind, size, offset = struct.unpack(directory.layout.entry, directory.entries[number])
        if size <= directory.layout.inline:
            break  # an empty one
        if kind not in _BYTES or offset + size > len(data):
            raise MetadataError("it is damaged: its XMP is not where it should be")
        return Found(data[offset : offset + size], offset, offset + size, size)
    return Found(None, len(data), len(data))


def place(data: bytes, found: Found, packet: bytes) -> list[Patch]:
    if len(packet) == found.size:
        return [Patch(found.start, found.end, packet)]
    directory = _directory(data)
    layout = directory.layout
    end = len(data)
    gap = -end % 8
    at = end + gap
    try:
        entry = struct.pack(layout.entry, _XMP, _BYTE, len(packet), at)
        for number, present in enumerate(directory.entries):
            if directory.tag(number) == _XMP:
                where = directory.start + struct.calcsize(layout.count) + number * len(present)
                return [Patch(where, where + len(entry), entry), Patch(end, end, b"\0" * gap + packet)]
        packet += b"\0" * (-len(packet) % 8)
        # Entries are sorted by tag.
        before = sum(directory.tag(number) < _XMP for number in range(len(directory.entries)))
        entries = [*directory.entries[:before], entry, *directory.entries[before:]]
        grown = b"".join([struct.pack(layout.count, len(entries)), *entries, directory.after])
        pointer = struct.pack(layout.offset, at + len(packet))
        if not layout.is_big and at + len(packet) + len(grown) > 0xFFFFFFFF:
            raise struct.error
    except struct.error:
        raise MetadataError("it would be larger than the 4 GB that TIFF allows") from None
    header = Patch(layout.header, layout.header + len(pointer), pointer)
    return [header, Patch(end, end, b"\0" * gap + packet + grown)]


def _directory(data: bytes) -> _Directory:
    """The first directory."""
    layout = _Layout("<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+"))
    try:
        (start,) = struct.unpack_from(layout.offset, data, layout.header)
        (count,) = struct.unpack_from(layout.count, data, start)
        at = start + struct.calcsize(layout.count)
        size = struct.calcsize(layout.entry)
        end = at + count * size + struct.calcsize(layout.offset)
    except struct.error:
        raise MetadataError("it is cut short: its first directory is missing") from None
    if start < layout.header or end > len(data) or not count:
        raise MetadataError("it is cut short in the middle of its first directory")
    entries = tuple(data[at + number * size : at + (number + 1) * size] for number in range(count))
    return _Directory(layout, start, end, entries, data[at + count * size : end])
