"""Scenes: up to four things on a coloured background, planned from a seed and then drawn.

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
from .catalog import ALIKE, SETS
from .colours import plain_colour
from .icons import IconStore

IMAGE_SIZE = 112
PATCH = 14
MAX_THINGS = 4
COUNT_SHARES = (0.02, 0.2, 0.26, 0.28, 0.24)  # of pictures with no thing, one thing, ...
OTHER_SIDES = (90, 150, 180)  # pictures are at times drawn at another size than the model's
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
    tint: int | None = None  # the colour (an index) that a single-colour drawing is given


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


def _kinds(count: int, all_kinds: list[int], rng: Generator) -> list[int]:
    """Kinds of that many things: at times the same again, at times one that is easily taken for another."""
    kinds: list[int] = []
    for _ in range(count):
        chance = rng.random()
        before = kinds[int(rng.integers(len(kinds)))] if kinds else None
        if before is not None and chance < 0.3:
            kinds.append(before)
        elif before is not None and chance < 0.45:
            kinds.append(int(rng.choice([kind for kind in ALIKE[before] if kind in all_kinds] or all_kinds)))
        else:
            kinds.append(int(rng.choice(all_kinds)))
    return kinds


def plan(table: dict[int, dict[int, list[int]]], rng: Generator, count: int | None = None) -> Scene:
    """A scene of things from ``table`` (set → kind → drawings): mostly one set, sometimes mixed."""
    if count is None:
        count = int(rng.choice(MAX_THINGS + 1, p=COUNT_SHARES))
    ground = int(rng.integers(len(COLOURS)))
    if not count:
        return Scene((), ground)
    all_kinds = sorted({kind for kinds in table.values() for kind in kinds})
    one_set = int(rng.choice(sorted(table))) if rng.random() < 0.6 else None
    kinds = rng.permutation(_kinds(count, all_kinds, rng)).tolist()
    other_colours = [colour for colour in range(len(COLOURS)) if colour != ground]
    shared_tint = int(rng.choice(other_colours)) if rng.random() < 0.3 else None
    things = []
    for kind, (x, y, size) in zip(kinds, _places(count, rng), strict=True):
        sets = (
            [one_set]
            if one_set is not None and kind in table[one_set]
            else sorted(s for s in table if kind in table[s])
        )
        chosen = sets[int(rng.integers(len(sets)))]
        drawings = table[chosen][kind]
        tint = None
        if SETS[chosen].single_colour:
            tint = int(rng.choice(other_colours)) if shared_tint is None else shared_tint
        things.append(Placed(kind, drawings[int(rng.integers(len(drawings)))], x, y, size, tint))
    return Scene(tuple(things), ground)


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


@dataclass(frozen=True)
class Drawn:
    """A picture, ``IMAGE_SIZE`` square, what its patches show, and the plain colour of each of the
    scene's things (an index in ``COLOURS``; None: of several colours, or of one without a name)."""

    picture: Image.Image
    patches: PatchTruth
    colours: tuple[int | None, ...]


def _sprite(
    thing: Placed, ground: int, side: int, store: IconStore, style: effects.Style,
    rng: Generator, strength: float,
) -> Image.Image:  # fmt: skip
    icon, size = store.picture(thing.icon), round(thing.size * side)
    if thing.tint is None:
        return effects.distort(icon, size, style, rng, strength)
    shade = COLOURS[thing.tint].sample(rng)
    dark_ground = COLOURS[ground].value[1] <= 0.5
    icon = effects.coloured_in(icon, store.silhouette(thing.icon), shade, dark_ground, rng)
    return effects.distort(icon, size, style, rng, strength, recolour=False)


def draw(scene: Scene, store: IconStore, rng: Generator, strength: float = 1.0) -> Drawn:
    """The picture of a scene.

    ``strength`` scales the distortions that training uses to make up for the few drawing styles;
    the held-out sets are drawn with a lower one, as ordinary pictures.
    """
    side = IMAGE_SIZE if rng.random() < 0.7 else int(rng.choice(OTHER_SIDES))
    picture = paint(COLOURS[scene.colour], side, rng)
    owner = np.full((side, side), -1, np.int16)
    shadow = rng.random() < 0.3
    style = effects.Style.sample(rng, strength)
    colours: list[int | None] = [None] * len(scene.things)
    for index in rng.permutation(len(scene.things)).tolist():
        thing = scene.things[index]
        sprite = _sprite(thing, scene.colour, side, store, style, rng, strength)
        alpha = sprite.getchannel("A")
        left, top = round(thing.x * side - sprite.width / 2), round(thing.y * side - sprite.height / 2)
        if shadow:
            offset = max(1, side // 50)
            picture.paste((20, 20, 20), (left + offset, top + offset), alpha.point(lambda a: a * 0.35))
        picture.paste(sprite, (left, top), sprite)
        mask = Image.new("L", (side, side))
        mask.paste(alpha, (left, top))
        owner[np.asarray(mask) > 128] = index
        pixels = np.asarray(sprite)
        colours[index] = plain_colour(pixels[pixels[..., 3] > 128][::4, :3])
    labels = patch_truth(owner, scene)
    picture = effects.finish(picture, rng, strength)
    if side != IMAGE_SIZE:
        picture = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return Drawn(picture, labels, tuple(colours))
