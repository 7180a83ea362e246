"""What an answer's log-probability loses when a region of the picture is covered.

A region of the picture is covered, and the answer is scored again: what its log-probability loses by that is the
region's share (Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2). It asks the whole model, so it is faithful by
construction, and it needs nothing of an engine but its answers. Regions are coarse first; the ones that matter most
are then divided. `benchmarks/pointing.py` measures it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..checkpoint.tokenizer import Tokenizer
from ..engines.engine import Engine, Floats
from ..generation.loop import generate
from ..generation.rows import Choice, Task
from ..generation.settings import Decoding
from .found import Found, Steps

ENCODINGS = 64
"""Pictures that the model encodes for one map, the uncovered one included."""

# Coarse regions per side, and how many of them are divided into four: 1 + 25 + 4 * 9 = 62 encodings.
_GRID, _DIVIDED = 5, 9
# The side of a coarse region, in steps of the grid: neighbours overlap, so that no thing is on a border of all.
_REACH = 1.6
# The standard deviation of a region's kernel, in its sides.
_SPREAD = 0.4
# Pictures encoded at once: activations of a large model take memory.
_BATCH = 8


@dataclass(frozen=True)
class _Region:
    """A square of the picture; places and sizes are fractions of its sides."""

    x: float
    y: float
    size: float

    def mask(self, side: int) -> Floats:
        """[side, side] from 0 to 1, soft at its border: a hard edge would be something to see."""
        at = (np.arange(side, dtype=np.float32) + 0.5) / side
        soft = self.size / 8

        def along(centre: float) -> Floats:
            return np.clip((self.size / 2 - np.abs(at - centre)) / soft + 0.5, 0, 1).astype(np.float32)

        return np.outer(along(self.y), along(self.x))

    def kernel(self, side: int) -> Floats:
        """[side, side], a Gaussian about its centre."""
        at = (np.arange(side, dtype=np.float32) + 0.5) / side

        def along(centre: float) -> Floats:
            return np.exp(-0.5 * ((at - centre) / (_SPREAD * self.size)) ** 2).astype(np.float32)

        return np.outer(along(self.y), along(self.x))

    def quarters(self) -> list[_Region]:
        step, size = self.size / 4, self.size / 2
        return [_Region(self.x + dx, self.y + dy, size) for dy in (-step, step) for dx in (-step, step)]


_Level = tuple[Sequence[_Region], Floats]


def occluding(
    engine: Engine, tokenizer: Tokenizer, pixels: Floats, prompt: str, answer: Choice, parts: Sequence[slice]
) -> Steps:
    """How much each place of a picture [1, 3, S, S] supports each part of `answer` after `prompt`.

    A part's weight is the most that its log-probability loses by one region, in nats. At most `ENCODINGS` pictures
    are encoded, in batches, for all parts together: the regions that matter most to the whole answer are divided.
    """
    side = pixels.shape[-1]
    ground = _ground(pixels[0])
    task = Task(tokenizer.encode(prompt), Decoding(), choices=(answer,))
    instruction = tokenizer.instruction(prompt)
    step = 1 / _GRID
    places = [(number + 0.5) * step for number in range(_GRID)]
    coarse = [_Region(x, y, _REACH * step) for y in places for x in places]
    total = 1 + len(coarse) + 4 * _DIVIDED
    scores: list[list[float]] = []  # of each picture and token

    def score(regions: Sequence[_Region | None]) -> Iterator[tuple[int, int]]:
        for start in range(0, len(regions), _BATCH):
            group = regions[start : start + _BATCH]
            covered = [
                pixels[0] if one is None else _covered(pixels[0], ground, one.mask(side)) for one in group
            ]
            pictures = engine.encode_image(np.stack(covered))
            vectors = engine.query(pictures, [instruction] * len(group))
            written = generate(engine, tokenizer, vectors, [task] * len(group))
            # Without the end token, which says where the answer ends and nothing about the picture.
            scores.extend(one.logprobs[:-1] for (one,) in written)
            yield len(scores), total

    yield from score([None, *coarse])
    losses = _losses(scores)
    hottest = np.argsort(-losses.sum(axis=1), kind="stable")[:_DIVIDED]
    fine = [quarter for place in hottest for quarter in coarse[place].quarters()]
    yield from score(fine)
    losses = _losses(scores)
    found = []
    for part in parts:
        drops = losses[:, part].sum(axis=1)
        heat = _heat(side, (coarse, drops[: len(coarse)]), (fine, drops[len(coarse) :]))
        found.append(Found(heat, max(0.0, float(drops.max()))))
    return found


def _losses(scores: Sequence[Sequence[float]]) -> Floats:
    """Log-probabilities of the tokens [pictures, T], the uncovered picture first -> what each region costs."""
    table = np.asarray(scores, np.float32)
    losses: Floats = table[0] - table[1:]
    return losses


def _heat(side: int, coarse: _Level, fine: _Level) -> Floats:
    """The product of both levels: what matters when much is covered, and when little is."""
    heat: Floats = (_level(side, *coarse) * (_level(side, *fine) + 0.05)).astype(np.float32)
    heat /= heat.max() or 1
    return heat


def _level(side: int, regions: Sequence[_Region], drops: Floats) -> Floats:
    """The losses above 0 spread over the picture, relative to the largest: of each place the mean over the regions,
    near ones more (Nadaraya and Watson's kernel regression), so that no border of a region shows."""
    total = np.zeros((side, side), np.float32)
    weight = np.full_like(total, 1e-9)
    for region, drop in zip(regions, drops, strict=True):
        kernel = region.kernel(side)
        total += kernel * max(0.0, float(drop))
        weight += kernel
    mean: Floats = (total / weight).astype(np.float32)
    mean /= mean.max() or 1
    return mean


def _covered(picture: Floats, ground: Floats, mask: Floats) -> Floats:
    return (picture * (1 - mask) + ground * mask).astype(np.float32)


def _ground(picture: Floats) -> Floats:
    """What regions are covered with: the picture's mean colour [3, 1, 1]."""
    mean: Floats = picture.mean(axis=(1, 2), keepdims=True)
    return mean
