"""Which colour one would call a drawn thing, from its pixels.

Every name covers a box of hue, saturation and value, with gaps between neighbours: a shade in a gap has
no name, and a thing has one only where most of it is of one named colour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .backgrounds import COLOURS

MOSTLY = 0.55  # share of a thing's pixels that its colour must have ...
RIVAL = 0.5  # ... and how much of that share any other named colour may have

# hue in degrees (from > to wraps around), then least and most saturation and value
_BOXES: tuple[tuple[str, float, float, float, float, float, float], ...] = (
    ("red", 346, 11, 0.66, 1.0, 0.42, 1.0),
    ("orange", 20, 37, 0.62, 1.0, 0.78, 1.0),
    ("yellow", 44, 64, 0.42, 1.0, 0.75, 1.0),
    ("green", 76, 168, 0.28, 1.0, 0.25, 1.0),
    ("blue", 190, 246, 0.32, 1.0, 0.35, 1.0),
    ("purple", 258, 300, 0.28, 1.0, 0.3, 0.95),
    ("pink", 312, 8, 0.17, 0.58, 0.8, 1.0),
    ("brown", 8, 38, 0.32, 1.0, 0.22, 0.6),
    ("black", 0, 360, 0.0, 1.0, 0.0, 0.2),
    ("white", 0, 360, 0.0, 0.1, 0.88, 1.0),
    ("grey", 0, 360, 0.0, 0.13, 0.32, 0.76),
)
_INDEX = {colour.name: index for index, colour in enumerate(COLOURS)}


def _hsv(colours: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """(N, 3) RGB in 0..1 → hue in degrees, saturation and value, each (N,)."""
    red, green, blue = colours.T
    value, low = colours.max(1), colours.min(1)
    spread = np.maximum(value - low, 1e-6)
    hue = np.where(
        value == red,
        (green - blue) / spread,
        np.where(value == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    return hue * 60 % 360, (value - low) / np.maximum(value, 1e-6), value


def colour_shares(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N, 3) RGB pixels → the share of them that each of ``COLOURS`` names."""
    hue, saturation, value = _hsv(pixels.astype(np.float32) / 255)
    shares = np.zeros(len(COLOURS))
    for name, start, end, *bounds in _BOXES:
        turned = (hue >= start) & (hue <= end) if start < end else (hue >= start) | (hue <= end)
        inside = (
            turned
            & (saturation >= bounds[0])
            & (saturation <= bounds[1])
            & (value >= bounds[2])
            & (value <= bounds[3])
        )
        shares[_INDEX[name]] = inside.mean()
    return shares


def plain_colour(pixels: NDArray[np.uint8]) -> int | None:
    """The index in ``COLOURS`` of the one colour that (N, 3) RGB pixels plainly have, if any."""
    if len(pixels) < 20:
        return None
    shares = colour_shares(pixels)
    best = int(shares.argmax())
    rival = np.delete(shares, best).max()
    return best if shares[best] >= MOSTLY and rival <= RIVAL * shares[best] else None
