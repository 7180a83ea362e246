"""Changes of a file as replaced stretches: all other bytes stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Patch:
    """`content` in the place of the bytes from `start` to `end`; an insertion where these are equal."""

    start: int
    end: int
    content: bytes


@dataclass(frozen=True)
class Found:
    """The packet of a file, and where it is.

    packet: its bytes, or None. start, end: the stretch to replace with the new one: a segment, chunk or entry;
    equal, if there is none yet. size: of the stretch for the packet's own bytes. more: packets that extend it, or
    that are in an older form.
    """

    packet: bytes | None
    start: int
    end: int
    size: int = 0
    more: tuple[bytes, ...] = ()


def patched(data: bytes, patches: Iterable[Patch]) -> bytes:
    pieces = []
    at = 0
    for patch in sorted(patches):
        assert patch.start >= at, "patches overlap"
        pieces += [data[at : patch.start], patch.content]
        at = patch.end
    return b"".join([*pieces, data[at:]])
