"""Where picture files keep their XMP packet.

Each format finds the packet, and describes as patches how another takes its place: bytes outside of patches stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...errors import MetadataError
from ..packet import PADDING, Packet
from . import jpeg, png, tiff, webp
from .patches import Found, Patch, patched

Find = Callable[[bytes], Found]
Place = Callable[[bytes, Found, bytes], list[Patch]]


@dataclass(frozen=True)
class Container:
    """A format: `find` locates the packet, `place` says what changes for another one, of at most `most` bytes."""

    name: str
    find: Find
    place: Place
    most: int

    def with_packet(self, data: bytes, packet: Packet) -> bytes:
        """The file with the packet in it. Where there is one whose padding leaves room, nothing else moves.

        Raises `MetadataError`.
        """
        found = self.find(data)
        bare = packet.serialised()
        padding = PADDING
        if found.packet is not None and 0 <= found.size - len(bare) <= 4 * PADDING:
            padding = found.size - len(bare)
        if len(bare) > self.most:
            raise MetadataError(
                f"its XMP would have {len(bare):,} bytes, and a {self.name} file has room for {self.most:,}"
            )
        content = packet.serialised(min(padding, self.most - len(bare)))
        made = patched(data, self.place(data, found, content))
        if self.find(made).packet != content:
            raise MetadataError("its XMP cannot be found again after writing; the file stays as it is")
        return made


_CONTAINERS = (
    (b"\xff\xd8\xff", Container("JPEG", jpeg.find, jpeg.place, jpeg.MOST_BYTES)),
    (png.SIGNATURE, Container("PNG", png.find, png.place, 2**31 - 1)),
    (b"RIFF", Container("WebP", webp.find, webp.place, 2**31 - 1)),
    (b"II*\0", Container("TIFF", tiff.find, tiff.place, 2**31 - 1)),
    (b"MM\0*", Container("TIFF", tiff.find, tiff.place, 2**31 - 1)),
    (b"II+\0", Container("TIFF", tiff.find, tiff.place, 2**31 - 1)),
    (b"MM\0+", Container("TIFF", tiff.find, tiff.place, 2**31 - 1)),
)


def container(data: bytes) -> Container | None:
    """The format of a file by its first bytes; None if no packet can be put into it here."""
    for signature, kind in _CONTAINERS:
        if data.startswith(signature) and (signature != b"RIFF" or data[8:12] == b"WEBP"):
            return kind
    return None
