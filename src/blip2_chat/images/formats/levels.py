"""Grey with more than 8 bits, or signed: which levels are black and white, and the conversion to 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO = 0
_SIGNED, _FLOAT = 2, 3
_STRIP = 1_000_000

Levels = npt.NDArray[Any]


def strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of whole rows, about a million pixels each, that cover a picture.

    A conversion strip by strip needs temporary memory for one strip only.
    """
    width, height = size
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        yield (0, top, width, min(top + rows, height))


def holds_levels(image: Image.Image) -> bool:
    """Whether an image's numbers are to be scaled by `from_levels`; Pillow's own convert() clips them at 255."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return True
    bits, kind, _ = _tiff_samples(image)
    return image.mode == "L" and bits == 8 and kind == _SIGNED


def from_levels(image: Image.Image) -> Image.Image:
    """8-bit grey ("L") from one channel of 16-bit, 32-bit, float or signed levels.

    White is defined by the format: 65535 in 16-bit files, 4095 in a 12-bit TIFF. Otherwise it is the smallest
    usual maximum that covers all levels: 1 (floats; a little overshoot is clipped), 255, 65535 (32767 in
    signed 16-bit files, 127 in signed 8-bit ones); levels beyond those, and negative ones, are stretched from
    the darkest to the brightest. TIFFs whose photometric interpretation is WhiteIsZero are inverted.
    """
    bits, kind, white_is_zero = _tiff_samples(image)
    read = _reader(image, bits, kind)
    low, high = _range(image, read)
    white = _white(image, bits, kind, low, high)
    black = 0.0 if white is not None else low
    scale = 255.0 / (white or (high - low) or 1.0)
    key = image.info.get("transparency")
    grey = Image.new("L", image.size)
    for box in strips(image.size):
        stored = read(image.crop(box))
        # float32 holds 16-bit levels exactly; "I" and "F" span more.
        levels = stored.astype(np.float32 if image.mode.startswith("I;16") else np.float64)
        levels = (np.nan_to_num(levels, nan=low, posinf=high, neginf=low) - black) * scale
        if white_is_zero:
            levels = 255.0 - levels
        shown: npt.NDArray[np.uint8] = np.rint(levels.clip(0.0, 255.0)).astype(np.uint8)
        if isinstance(key, int):
            shown[stored == key] = 255
        grey.paste(Image.fromarray(shown), box)
    return grey


def _reader(image: Image.Image, bits: int | None, kind: int | None) -> Callable[[Image.Image], Levels]:
    """Reads the numbers of a strip; Pillow keeps the bits of samples whose type it does not know."""
    if image.mode == "I" and bits == 32 and kind not in (_SIGNED, _FLOAT):
        return lambda strip: np.asarray(strip).view(np.uint32)
    if image.mode == "L":
        return lambda strip: np.asarray(strip).view(np.int8)
    return np.asarray


def _range(image: Image.Image, read: Callable[[Image.Image], Levels]) -> tuple[float, float]:
    """The darkest and the brightest finite level; (0, 0) if there is none."""
    low, high = np.inf, -np.inf
    for box in strips(image.size):
        stored = read(image.crop(box))
        finite = stored[np.isfinite(stored)] if stored.dtype.kind == "f" else stored
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _white(image: Image.Image, bits: int | None, kind: int | None, low: float, high: float) -> float | None:
    """The level of white; None if levels are stretched."""
    if image.mode.startswith("I;16"):
        # 10-, 12- and 14-bit cameras store small numbers in 16-bit words.
        return 2.0**bits - 1 if bits is not None and 8 < bits <= 16 else 65535.0
    if image.format in ("PNG", "PPM") and image.mode == "I":
        return 65535.0  # Pillow may open these 16-bit files as 32-bit "I"
    if low < 0:
        return None
    if kind == _SIGNED and bits == 8:
        return 127.0
    unit = [(2.0, 1.0)] if image.mode == "F" else []
    largest = 32767.0 if kind == _SIGNED and bits == 16 else 65535.0
    scales = [*unit, (255.0, 255.0), (largest, largest)]
    return next((scale for limit, scale in scales if high <= limit), None)


def _tiff_samples(image: Image.Image) -> tuple[int | None, int | None, bool]:
    """(bits per sample, sample format, whether 0 is white) of a TIFF of one channel; (None, None, False) else."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return None, None, False
    bits, kind = tags.get(_BITS_PER_SAMPLE, ()), tags.get(_SAMPLE_FORMAT, (1,))
    if not (isinstance(bits, tuple) and len(bits) == 1 and isinstance(kind, tuple) and len(kind) >= 1):
        return None, None, False
    return bits[0], kind[0], tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
