"""Picture files, good ones and the parts of which odd ones are made."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
Order: TypeAlias = Literal["<", ">"]
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK = 0, 1, 2, 5
UNSIGNED, SIGNED, FLOAT = 1, 2, 3

_SMOOTH = np.mgrid[0:120, 0:160].sum(0)[..., None] * [1, 2, 3] % 256
PIXELS = (_SMOOTH * 3 // 4 + np.random.default_rng(2).integers(0, 60, _SMOOTH.shape)).astype("u1")
IMAGE = Image.fromarray(PIXELS)


def encoded(kind: str, image: Image.Image = IMAGE, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


PNG = encoded("PNG")


def chunk(kind: bytes, body: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)


def tiff(
    samples: Array,
    photometric: int = BLACK_IS_ZERO,
    order: Order = "<",
    *,
    packed: bytes | None = None,
    bits: int | None = None,
    deflate: bool = False,
    planar: bool = False,
    big: bool = False,
    more: dict[int, int] | None = None,
) -> bytes:
    """A TIFF of one strip from samples [H, W] or [H, W, C]; its sample format is that of the array's type."""
    height, width = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    kind = {"u": UNSIGNED, "i": SIGNED, "f": FLOAT}[samples.dtype.kind]
    body = samples.astype(samples.dtype.newbyteorder(order)).tobytes() if packed is None else packed
    planes = [body]
    if planar:
        planes = [
            samples[..., c].astype(samples.dtype.newbyteorder(order)).tobytes() for c in range(channels)
        ]
    if deflate:
        planes = [zlib.compress(plane) for plane in planes]
    tags: dict[int, list[int]] = {
        256: [width],
        257: [height],
        258: [bits or samples.dtype.itemsize * 8] * channels,
        259: [8 if deflate else 1],
        262: [photometric],
        273: [],
        277: [channels],
        278: [height],
        279: [len(plane) for plane in planes],
        284: [2 if planar else 1],
        339: [kind] * channels,
    }
    for tag, value in (more or {}).items():
        tags[tag] = [value]
    start = 16 if big else 8
    at = start
    for plane in planes:
        tags[273].append(at)
        at += len(plane)
    at += -at % 8
    entries, far = b"", b""
    inline, count_kind = (8, "Q") if big else (4, "I")
    far_at = at + (8 if big else 2) + len(tags) * (20 if big else 12) + (8 if big else 4)
    for tag, values in sorted(tags.items()):
        long = tag in (273, 279)
        packed_values = struct.pack(f"{order}{len(values)}{'I' if long else 'H'}", *values)
        head = struct.pack(order + "HH" + count_kind, tag, 4 if long else 3, len(values))
        if len(packed_values) <= inline:
            entries += head + packed_values.ljust(inline, b"\0")
        else:
            entries += head + struct.pack(order + count_kind, far_at + len(far))
            far += packed_values + bytes(-len(packed_values) % 8)
    magic = b"II" if order == "<" else b"MM"
    if big:
        header = magic + struct.pack(order + "HHHQ", 43, 8, 0, at)
        directory = struct.pack(order + "Q", len(tags)) + entries + bytes(8)
    else:
        header = magic + struct.pack(order + "HI", 42, at)
        directory = struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return (header + b"".join(planes)).ljust(at, b"\0") + directory + far
