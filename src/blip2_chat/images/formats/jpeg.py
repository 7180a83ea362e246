"""Properties of a JPEG before decoding: its size, the work of its scans, whether it is complete."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# Start of frame, but for DHT, JPG and DAC, which have their codes among them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
# A marker is FF and a code. FF 00 is a byte of picture data, FF D0-D7 restart it, and more FF are padding.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
_SHORTEST_PADDING = 16
# A picture with a large colour profile and metadata has a few hundred segments. Pillow goes through them, and
# through every byte between them, in Python.
_MOST_SEGMENTS = 10_000
_MOST_JUNK = 2**20
# Preparing a scan takes as long as about this many pixels of it.
_SCAN_OVERHEAD = 20_000
END = b"\xff\xd9"


@dataclass(frozen=True)
class Facts:
    """width, height: in pixels, as stored.
    scans: number of passes over the picture: 1, or about 10 in a progressive file.
    work: pixels decoded in all passes together.
    ended: whether there is an end marker.
    whole: whether the scans cover all components and coefficients, provided that the last scan is complete.
    """

    width: int
    height: int
    scans: int
    work: int
    ended: bool
    whole: bool


def facts(data: bytes) -> Facts | None:
    """The properties of a JPEG; None for a file without a scan, which no decoder opens.

    Raises ValueError for a file with so many segments, or so many bytes between them, that it must be
    malicious.
    """
    width = height = scans = work = 0
    ended = progressive = False
    parts: list[int] = []
    # For each component, the coefficients that have full precision after some scan.
    known: dict[int, set[int]] = {}
    at = segments = junk = 0
    while (marker := _MARKER.search(data, at)) is not None:
        segments += 1
        if scans == 0:
            junk += marker.end() - 2 - at
        if segments > _MOST_SEGMENTS or junk > _MOST_JUNK:
            raise ValueError("too much other data comes before the picture")
        code, at = marker[1][0], marker.end()
        if code == _EOI:
            ended = True
            break
        if code == _SOI or code < 0xC0:
            continue  # a marker without a body
        body = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
        if code in _FRAMES and len(body) >= 6 and not parts:
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            progressive = code in _PROGRESSIVE
            parts = list(body[6 : 6 + 3 * body[5] : 3])
            known = {part: set() for part in parts}
        elif code == _SOS and parts and body:
            scans += 1
            in_scan = body[1 : 1 + 2 * body[0] : 2]
            work += width * height * min(len(in_scan), len(parts)) // len(parts) + _SCAN_OVERHEAD
            first, last, precision = (0, 63, 0) if not progressive else _band(body)
            for part in in_scan:
                if precision == 0 and part in known:
                    known[part].update(range(first, last + 1))
    if not scans:
        return None
    whole = all(len(coefficients) == 64 for coefficients in known.values())
    return Facts(width, height, scans, work, ended, whole)


def without_padding(data: bytes) -> bytes:
    """The file without the zeros that an interrupted download leaves at its end, and without half a marker."""
    unpadded = data.rstrip(b"\0")
    # A few zeros may be picture data.
    return (data if len(data) - len(unpadded) < _SHORTEST_PADDING else unpadded).rstrip(b"\xff")


def _band(body: bytes) -> tuple[int, int, int]:
    """The first and last coefficient of a progressive scan, and the number of bits still missing after it."""
    if len(body) < 4:
        return 0, -1, 0
    first, last, bits = body[-3:]
    return first, min(last, 63), bits & 15
