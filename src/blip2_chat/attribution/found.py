"""What every method gives for a part of an answer, and how it is on its way there."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from ..engines.engine import Floats


@dataclass(frozen=True, eq=False)
class Found:
    """`heat`: float32 [S, S] over the model's picture, from 0 to 1: 1 where it depends most, 0 everywhere when it
    depends on nothing. `weight`: how much it depends on the picture, in the method's own measure, at least 0."""

    heat: Floats
    weight: float


Steps = Generator[tuple[int, int], None, list[Found]]
"""Between its steps, other work may be done: it yields (done, in all), and returns what it found of each part."""
