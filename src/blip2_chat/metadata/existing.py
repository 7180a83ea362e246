"""Text that a picture has already, wherever programs look for it."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from PIL import Image, IptcImagePlugin

from ..errors import MetadataError
from ..images.kinds import FORMATS
from .containers import container
from .packet import Packet

_IMAGE_DESCRIPTION = 0x010E
_IIM_CAPTION = (2, 120)
# What cameras and programs write into Exif's description by themselves.
_SAYS_NOTHING = re.compile(
    r"(?:[\w-]+ )*DIGITAL (?:STILL )?CAMERA|SONY DSC|SAMSUNG|Exif_JPEG_PICTURE|DCIM.*|Default|DJI.*|Untitled"
    r"|Created (?:with|by) .*|\S+\.(?:jpe?g|tiff?|png)|ImageJ=.*|[{<\[].*",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Inside:
    """What a picture file says of its picture: its XMP packets, the one to change first, and the caption of the
    formats before XMP (IPTC IIM, Exif)."""

    packets: tuple[Packet, ...]
    older: str


def inside(data: bytes) -> Inside:
    """Raises `MetadataError` when the file's packet or its structure is damaged."""
    contents: tuple[bytes | None, ...]
    kind = container(data)
    if kind is not None:
        found = kind.find(data)
        contents = (found.packet, *found.more)
    else:
        contents = (_xmp_by_pillow(data),)
    return Inside(tuple(Packet(one) for one in contents if one), older_caption(data))


def older_caption(data: bytes) -> str:
    """IIM's caption, otherwise Exif's description unless the camera wrote it by itself; empty if there is none."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            caption = (IptcImagePlugin.getiptcinfo(image) or {}).get(_IIM_CAPTION) or b""
            description = image.getexif().get(_IMAGE_DESCRIPTION) or ""
    except Exception:  # damaged notes make Pillow raise nearly anything; then nobody else reads them either
        return ""
    first = caption[0] if isinstance(caption, list) else caption
    for text in (first, description):
        words = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        words = words.strip("\0 \t\r\n")
        if words and not _SAYS_NOTHING.fullmatch(words):
            return words
    return ""


def _xmp_by_pillow(data: bytes) -> bytes | None:
    """The packet of a file of another format, as far as Pillow finds it."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            packet = image.info.get("xmp")
    except Exception:  # it was opened before, by another decoder
        return None
    return packet if isinstance(packet, bytes) else None


def readable(data: bytes) -> Packet | None:
    """A packet, or None where it is damaged and so says nothing to anybody."""
    try:
        return Packet(data)
    except MetadataError:
        return None
