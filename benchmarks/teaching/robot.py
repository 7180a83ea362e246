"""The new kind of thing: robots, no two of them alike, drawn by this file and by nobody else."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

# Drawn this much larger, and reduced: Pillow's lines have no soft edges.
_SCALE = 3
_SIDE = 128


def robot(rng: Generator) -> Image.Image:
    """One robot from the front, RGBA [128, 128] on nothing: a head with two eyes, a body, arms, legs and at times an
    antenna, in random colours and proportions."""
    image = Image.new("RGBA", (_SIDE * _SCALE, _SIDE * _SCALE))
    pen = _Pen(ImageDraw.Draw(image))
    metal, second, glow = _shade(rng, 0.45), _shade(rng, 0.8), _shade(rng, 1.0)
    line = (30, 30, 35) if rng.random() < 0.8 else tuple(channel // 2 for channel in metal)
    head, body = rng.uniform(19, 27), rng.uniform(22, 32)
    top, neck = rng.uniform(20, 28), rng.uniform(54, 60)
    waist = rng.uniform(92, 100)
    rounded = rng.uniform(1, 10)
    legs = rng.uniform(8, 14)
    for side in (-1, 1):
        leg = 64 + side * rng.uniform(10, 14)
        pen.box(leg - legs / 2, waist - 2, leg + legs / 2, 120, second, line, 2)
        pen.box(leg - legs / 2 - 3, 115, leg + legs / 2 + 3, 124, metal, line, 3)
        shoulder = 64 + side * (body + 5)
        reach = neck + rng.uniform(24, 34) if rng.random() < 0.75 else neck - 14
        pen.box(shoulder - 5, min(neck + 6, reach), shoulder + 5, max(neck + 6, reach), second, line, 4)
        pen.circle(shoulder, reach, 7, metal, line)
    pen.box(59, neck - 8, 69, neck + 8, second, line, 1)
    pen.box(64 - body, neck, 64 + body, waist, metal, line, rounded)
    pen.box(64 - body * 0.6, neck + 8, 64 + body * 0.6, neck + 24, second, line, 3)
    for at in (-0.35, 0, 0.35):
        pen.circle(64 + body * at, neck + 16, 3, glow, line)
    if rng.random() < 0.75:
        pen.box(62.5, 8, 65.5, top + 2, line, line, 0)
        pen.circle(64, 8, 5, glow, line)
    for side in (-1, 1):
        pen.box(64 + side * head - 4, top + 9, 64 + side * head + 4, neck - 16, second, line, 2)
    pen.box(64 - head, top, 64 + head, neck - 4, metal, line, rounded)
    eye = rng.uniform(4, 7)
    for side in (-1, 1):
        pen.circle(64 + side * head * 0.45, top + 12, eye, (250, 250, 250), line)
        pen.circle(64 + side * head * 0.45, top + 12, eye * 0.5, glow if rng.random() < 0.5 else line, line)
    pen.box(64 - head * 0.5, neck - 13, 64 + head * 0.5, neck - 8, glow, line, 1)
    return image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)


def _shade(rng: Generator, saturation: float) -> tuple[int, ...]:
    colour = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, saturation), rng.uniform(0.55, 0.95))
    return tuple(int(channel) for channel in np.round(np.array(colour) * 255))


class _Pen:
    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw

    def box(
        self, left: float, top: float, right: float, bottom: float,
        fill: tuple[int, ...], line: tuple[int, ...], radius: float,
    ) -> None:  # fmt: skip
        place = [_SCALE * at for at in (left, top, right, bottom)]
        self._draw.rounded_rectangle(place, _SCALE * radius, fill, line, 2 * _SCALE)

    def circle(self, x: float, y: float, radius: float, fill: tuple[int, ...], line: tuple[int, ...]) -> None:
        place = [_SCALE * at for at in (x - radius, y - radius, x + radius, y + radius)]
        self._draw.ellipse(place, fill, line, 2 * _SCALE)
