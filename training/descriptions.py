"""Descriptions of scenes as people search for pictures, each with what has to be true of a picture.

A description names some or all of the things, how many there are of each kind, at times the colour of one, and at
times the background. Because its meaning is kept beside its words, it can be checked against any scene: in a batch of
pictures "a dog" is right for every one that shows a dog, and one with a detail changed is certainly wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from numpy.random import Generator

from .backgrounds import COLOURS
from .catalog import ALIKE, KINDS
from .questions import COUNTS, NOTHING
from .scenes import Scene

STARTS = ("a picture of ", "a photo of ", "an image of ", "")
START_SHARES = (0.06, 0.06, 0.03, 0.85)


@dataclass(frozen=True)
class Described:
    """A scene as far as descriptions can tell: kind → number, the background, kind → colour where all agree."""

    counts: dict[int, int]
    ground: int
    tints: dict[int, int]

    @classmethod
    def of(cls, scene: Scene, colours: Sequence[int | None]) -> Described:
        found: dict[int, set[int | None]] = {}
        for thing, colour in zip(scene.things, colours, strict=True):
            found.setdefault(thing.kind, set()).add(colour)
        tints = {
            kind: shade
            for kind, shades in found.items()
            if len(shades) == 1
            for shade in shades
            if shade is not None
        }
        return cls(dict(Counter(thing.kind for thing in scene.things)), scene.colour, tints)


@dataclass(frozen=True)
class Description:
    """``parts``: (kind, number, colour or None) in the order in which they are named; ``whole``: nothing else is
    in the picture; ``ground``: the background's colour, if it is named."""

    parts: tuple[tuple[int, int, int | None], ...]
    whole: bool
    ground: int | None
    start: str = ""

    @property
    def text(self) -> str:
        return self.start + self._listing() + self._background()

    def _listing(self) -> str:
        named = [_named(*part) for part in self.parts]
        if not named:
            return NOTHING
        return named[0] if len(named) == 1 else ", ".join(named[:-1]) + " and " + named[-1]

    def _background(self) -> str:
        if self.ground is None:
            return ""
        name = COLOURS[self.ground].name
        return f" on {'an' if name == 'orange' else 'a'} {name} background"

    def fits(self, seen: Described) -> bool | None:
        """Whether it is true of a picture; None where that cannot be told (a thing of two colours)."""
        if self.ground is not None and self.ground != seen.ground:
            return False
        counts = {kind: number for kind, number, _ in self.parts}
        if self.whole:
            if counts != seen.counts:
                return False
        elif any(
            seen.counts.get(kind, 0) < number if number == 1 else seen.counts.get(kind, 0) != number
            for kind, number in counts.items()
        ):
            return False
        unsure = False
        for kind, _, tint in self.parts:
            if tint is not None and kind not in seen.tints:
                unsure = True
            elif tint is not None and seen.tints[kind] != tint:
                return False
        return None if unsure else True


def _named(kind: int, number: int, tint: int | None) -> str:
    thing = KINDS[kind]
    if tint is None:
        return thing.phrase if number == 1 else f"{COUNTS[number]} {thing.plural}"
    shade = COLOURS[tint].name
    if number > 1:
        return f"{COUNTS[number]} {shade} {thing.plural}"
    return f"{'an' if shade == 'orange' else 'a'} {shade} {thing.name}"


def describe(seen: Described, rng: Generator, whole: float = 0.6) -> Description:
    """A true description; with the chance ``whole`` the complete caption."""
    kinds = list(seen.counts)
    start = str(rng.choice(STARTS, p=START_SHARES))
    if rng.random() < whole or not kinds:
        ground = seen.ground if rng.random() < 0.8 or not kinds else None
        return Description(tuple((kind, seen.counts[kind], None) for kind in kinds), True, ground, start)
    some = rng.permutation(kinds)[: int(rng.integers(1, min(3, len(kinds)) + 1))].tolist()
    tinted = int(rng.choice(some)) if rng.random() < 0.4 else None
    parts = tuple(
        (kind, seen.counts[kind], seen.tints.get(kind) if kind == tinted else None) for kind in some
    )
    return Description(parts, False, seen.ground if rng.random() < 0.3 else None, start)


def changed(right: Description, seen: Described, rng: Generator) -> Description:
    """The same description with one thing, one number or one colour changed, so that it is wrong."""
    for _ in range(60):
        wrong = _one_change(right, rng)
        if wrong is not None and wrong.fits(seen) is False:
            return wrong
    others = [colour for colour in range(len(COLOURS)) if colour != seen.ground]
    return replace(right, ground=int(rng.choice(others)))


def _one_change(right: Description, rng: Generator) -> Description | None:
    choice = rng.random()
    if not right.parts or (choice < 0.2 and right.ground is not None):
        return replace(right, ground=int(rng.integers(len(COLOURS))))
    place = int(rng.integers(len(right.parts)))
    kind, number, tint = right.parts[place]
    if tint is not None and choice < 0.5:
        tint = int(rng.integers(len(COLOURS)))
    elif choice < 0.45:
        number = int(rng.integers(1, 5))
    elif rng.random() < 0.6 and ALIKE[kind]:
        kind = int(rng.choice(ALIKE[kind]))
    else:
        kind = int(rng.integers(len(KINDS)))
    if any(other == kind for index, (other, _, _) in enumerate(right.parts) if index != place):
        return None
    parts = (*right.parts[:place], (kind, number, tint), *right.parts[place + 1 :])
    return replace(right, parts=parts)
