"""Backgrounds of one nameable colour, plain or textured.

Each colour has a range of hue, saturation and value with gaps between neighbours, so that its name is
never a matter of opinion. Textures mix two shades from the same range.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Colour:
    """A colour name and the HSV box it covers (hue in degrees)."""

    name: str
    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]

    def sample(self, rng: Generator) -> NDArray[np.float32]:
        """One shade as RGB in 0..255."""
        hue, saturation, value = (rng.uniform(*span) for span in (self.hue, self.saturation, self.value))
        return np.array(colorsys.hsv_to_rgb((hue % 360) / 360, saturation, value), np.float32) * 255


COLOURS: tuple[Colour, ...] = (
    Colour("red", (-6, 6), (0.72, 1.0), (0.62, 0.98)),
    Colour("orange", (23, 33), (0.78, 1.0), (0.88, 1.0)),
    Colour("yellow", (48, 58), (0.5, 1.0), (0.9, 1.0)),
    Colour("green", (90, 150), (0.35, 0.95), (0.4, 0.9)),
    Colour("blue", (198, 236), (0.35, 1.0), (0.45, 1.0)),
    Colour("purple", (266, 288), (0.4, 0.9), (0.4, 0.85)),
    Colour("pink", (325, 348), (0.22, 0.58), (0.92, 1.0)),
    Colour("brown", (18, 30), (0.5, 0.8), (0.28, 0.5)),
    Colour("black", (0, 360), (0.0, 0.3), (0.0, 0.14)),
    Colour("white", (0, 360), (0.0, 0.05), (0.94, 1.0)),
    Colour("grey", (0, 360), (0.0, 0.06), (0.42, 0.68)),
)
TEXTURES = ("plain", "plain", "gradient", "blotches", "noise", "stripes", "dots", "checks")


def _pattern(texture: str, size: int, rng: Generator) -> NDArray[np.float32]:
    """How far each pixel is from the first shade to the second, 0..1."""
    y, x = np.mgrid[0:size, 0:size] / size
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    period = rng.uniform(0.08, 0.3)
    mix = np.zeros((size, size))
    if texture == "gradient":
        mix = (along - along.min()) / (along.max() - along.min() + 1e-6)
    elif texture == "stripes":
        mix = (along / period) % 1 < rng.uniform(0.3, 0.7)
    elif texture == "dots":
        radius = (((along / period) % 1 - 0.5) ** 2 + ((across / period) % 1 - 0.5) ** 2) ** 0.5
        mix = radius < rng.uniform(0.15, 0.4)
    elif texture == "checks":
        mix = (along // period + across // period) % 2
    elif texture == "noise":
        mix = rng.random((size, size))
    elif texture == "blotches":
        cells = int(rng.integers(3, 12))
        small = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
        mix = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC)) / 255
    return np.asarray(mix, np.float32)


def paint(colour: Colour, size: int, rng: Generator) -> Image.Image:
    """A square background of this colour."""
    mix = _pattern(TEXTURES[rng.integers(len(TEXTURES))], size, rng)[..., None]
    first, second = colour.sample(rng), colour.sample(rng)
    if colour.hue[1] - colour.hue[0] < 360:  # neutral colours keep one hue, so do two shades of a picture
        second = first + (second - first) * rng.uniform(0.3, 1.0)
    return Image.fromarray((first * (1 - mix) + second * mix).clip(0, 255).astype(np.uint8))
