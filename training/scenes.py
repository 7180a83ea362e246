"""Scenes: one to four things on a coloured background, planned from a seed and then drawn.

Planning decides what is where; drawing adds everything that must not change an answer (light, blur,
outlines, compression). The two are separate so that answers can be tested without drawing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from . import effects
from .backgrounds import COLOURS, paint
from .icons import IconStore

IMAGE_SIZE = 112
PATCH = 14
MAX_THINGS = 4
SIZE_RANGES = ((0.4, 0.9), (0.34, 0.56), (0.31, 0.46), (0.29, 0.42))
MIN_STEP = 0.08  # centres differ by this much from left to right, so that their order is plain to see


@dataclass(frozen=True)
class Placed:
    """One thing in a scene. Places and sizes are fractions of the picture's side."""

    kind: int
    icon: int
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows; ``things`` from left to right."""

    things: tuple[Placed, ...]
    colour: int

    @property
    def colour_name(self) -> str:
        return COLOURS[self.colour].name


def _places(count: int, rng: Generator) -> list[tuple[float, float, float]]:
    """Non-overlapping (x, y, size), from left to right."""
    low, high = SIZE_RANGES[count - 1]
    while True:
        chosen: list[tuple[float, float, float]] = []
        for _ in range(60):
            size = rng.uniform(low, high)
            margin = size * 0.46
            x, y = rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin)
            if all(
                abs(x - other_x) >= MIN_STEP
                and max(abs(x - other_x), abs(y - other_y)) > 0.46 * (size + other_size)
                for other_x, other_y, other_size in chosen
            ):
                chosen.append((x, y, size))
            if len(chosen) == count:
                return sorted(chosen)


def plan(table: dict[int, dict[int, list[int]]], rng: Generator, count: int | None = None) -> Scene:
    """A scene of things from ``table`` (set → kind → drawings): mostly one set, sometimes mixed."""
    count = count or int(rng.choice(MAX_THINGS, p=(0.22, 0.28, 0.28, 0.22))) + 1
    all_kinds = sorted({kind for kinds in table.values() for kind in kinds})
    one_set = int(rng.choice(sorted(table))) if rng.random() < 0.6 else None
    kinds: list[int] = []
    for _ in range(count):
        repeat = bool(kinds) and rng.random() < 0.22
        kinds.append(kinds[int(rng.integers(len(kinds)))] if repeat else int(rng.choice(all_kinds)))
    things = []
    for kind, (x, y, size) in zip(rng.permutation(kinds).tolist(), _places(count, rng), strict=True):
        sets = (
            [one_set]
            if one_set is not None and kind in table[one_set]
            else sorted(s for s in table if kind in table[s])
        )
        drawings = table[sets[int(rng.integers(len(sets)))]][kind]
        things.append(Placed(kind, drawings[int(rng.integers(len(drawings)))], x, y, size))
    return Scene(tuple(things), int(rng.integers(len(COLOURS))))


@dataclass(frozen=True)
class PatchTruth:
    """What each vision patch shows: ``kind`` (+1; 0: background, -100: a border) and ``thing``, which of
    the scene's things it belongs to (-100: none, or a border)."""

    kind: NDArray[np.int64]
    thing: NDArray[np.int64]


def patch_truth(owner: NDArray[np.int16], scene: Scene) -> PatchTruth:
    """``owner`` tells for each pixel which thing is drawn there (-1: none)."""
    side = owner.shape[0]
    cells = IMAGE_SIZE // PATCH
    edge = side // cells * cells
    blocks = owner[:edge, :edge].reshape(cells, edge // cells, cells, edge // cells)
    kinds = np.zeros((cells, cells), np.int64)
    things = np.full((cells, cells), -100, np.int64)
    best = np.zeros((cells, cells))
    for index, thing in enumerate(scene.things):
        share = (blocks == index).mean(axis=(1, 3))
        wins = share > best
        clear = share[wins] > 0.3
        kinds[wins] = np.where(clear, thing.kind + 1, -100)
        things[wins] = np.where(clear, index, -100)
        best = np.maximum(best, share)
    kinds[best < 0.06] = 0
    return PatchTruth(kinds.reshape(-1), things.reshape(-1))


def draw(
    scene: Scene, store: IconStore, rng: Generator, strength: float = 1.0
) -> tuple[Image.Image, PatchTruth]:
    """The picture (``IMAGE_SIZE`` square) and what its patches show.

    ``strength`` scales the distortions that training uses to make up for the few drawing styles;
    the held-out sets are drawn with a lower one, as ordinary pictures.
    """
    side = IMAGE_SIZE if rng.random() < 0.6 else int(rng.choice((84, 140, 168, 224)))
    picture = paint(COLOURS[scene.colour], side, rng)
    owner = np.full((side, side), -1, np.int16)
    shadow = rng.random() < 0.3
    style = effects.Style.sample(rng, strength)
    for index in rng.permutation(len(scene.things)).tolist():
        thing = scene.things[index]
        sprite = effects.distort(store.picture(thing.icon), round(thing.size * side), style, rng, strength)
        left, top = round(thing.x * side - sprite.width / 2), round(thing.y * side - sprite.height / 2)
        if shadow:
            offset = max(1, side // 50)
            picture.paste(
                (20, 20, 20), (left + offset, top + offset), sprite.getchannel("A").point(lambda a: a * 0.35)
            )
        picture.paste(sprite, (left, top), sprite)
        mask = Image.new("L", (side, side))
        mask.paste(sprite.getchannel("A"), (left, top))
        owner[np.asarray(mask) > 128] = index
    labels = patch_truth(owner, scene)
    picture = effects.finish(picture, rng, strength)
    return picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC), labels
