"""XMP in PNG: a chunk iTXt with the keyword XML:com.adobe.xmp."""

from __future__ import annotations

import binascii
import re
import struct
import zlib
from collections.abc import Iterator

from ...errors import MetadataError
from ..packet import MOST_BYTES
from .patches import Found, Patch

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEYWORD = b"XML:com.adobe.xmp\0"
# How ImageMagick stored a packet before: as hexadecimal digits.
_OLD_KEYWORD = b"Raw profile type xmp\0"


def find(data: bytes) -> Found:
    packets, old = [], []
    insertion = None
    for kind, start, end in _chunks(data):
        body = data[start + 8 : end - 4]
        if kind == b"IDAT" and insertion is None:
            insertion = start
        elif kind == b"iTXt" and body.startswith(_KEYWORD):
            packets.append((start, end, _text(body)))
        elif kind in (b"tEXt", b"zTXt") and body.startswith(_OLD_KEYWORD):
            old.append((start, end, _profile(kind, body)))
    if insertion is None:
        raise MetadataError("it has no picture")
    if len(packets) > 1:
        raise MetadataError("it has two XMP packets, and programs differ in which they read")
    if not packets and not old:
        return Found(None, insertion, insertion)
    # The old form gives way to the usual one, with what it held: programs differ in which of both they prefer.
    start, end, packet = (packets or old)[0]
    return Found(packet, start, end, len(packet), tuple(one for *_, one in old[not packets :]))


def place(data: bytes, found: Found, packet: bytes) -> list[Patch]:
    # Uncompressed, without a language, so that programs find it that do not read PNG.
    body = b"iTXt" + _KEYWORD + b"\0\0\0\0" + packet
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", binascii.crc32(body))
    return [Patch(found.start, found.end, chunk)]


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each chunk up to the end of the picture; whatever follows is no part of it."""
    at = len(SIGNATURE)
    while True:
        if at + 12 > len(data):
            raise MetadataError("it is cut short: a PNG chunk is missing")
        size = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 12 + size
        if end > len(data):
            raise MetadataError("it is cut short in the middle of a PNG chunk")
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end


def _text(body: bytes) -> bytes:
    """The packet in an iTXt chunk: after two flags, and a language and a translation that end with zeros."""
    flag, rest = body[len(_KEYWORD) : len(_KEYWORD) + 1], body[len(_KEYWORD) + 2 :]
    parts = rest.split(b"\0", 2)
    if len(parts) < 3:
        raise MetadataError("its XMP chunk is damaged")
    return _inflated(parts[2]) if flag == b"\1" else parts[2]


def _profile(kind: bytes, body: bytes) -> bytes:
    """What ImageMagick wrote: a name, the size, and hexadecimal digits in lines."""
    rest = body[len(_OLD_KEYWORD) :]
    text = _inflated(rest[1:]) if kind == b"zTXt" else rest
    match = re.match(rb"\s*\w+\s+\d+\s+([0-9a-fA-F\s]*)\Z", text)
    try:
        return bytes.fromhex(match[1].decode()) if match else b""
    except ValueError:
        return b""


def _inflated(data: bytes) -> bytes:
    """Raises `MetadataError` for damage, and instead of expanding a bomb."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, MOST_BYTES + 1)
    except zlib.error:
        raise MetadataError("its XMP chunk is damaged") from None
    if len(text) > MOST_BYTES:
        raise MetadataError(f"its XMP chunk expands to more than {MOST_BYTES / 1e6:.0f} MB")
    return text
