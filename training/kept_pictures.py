"""Pictures that are drawn and encoded once, because the encoder that the retrieval model takes over does not learn.

A part holds 1,024 pictures: what the encoder saw (float16) and what is true of them. Parts are made by as many
processes as wanted, written whole or not at all, and the same seed always gives the same part.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Blip2ForConditionalGeneration

from . import checkpoints, scenes
from .batches import to_pixels
from .descriptions import Described
from .icons import IconStore

PART = 1024
AT_ONCE = 64


@dataclass(frozen=True)
class Part:
    """``seen`` (N, 1 + P, width) and, for each picture, what is true of it."""

    seen: Tensor
    truths: tuple[Described, ...]


def parts(folder: Path, encoder: Path, seed: int, count: int, strength: float, workers: int) -> list[Part]:
    """``count`` parts, those that are missing made first by ``workers`` processes; read from the disk as needed."""
    missing = [number for number in range(count) if not _file(folder, number).exists()]
    if missing:
        shares = [(folder, encoder, seed, strength, missing[first::workers]) for first in range(workers)]
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            pool.starmap(_make, shares)
    return [_read(_file(folder, number)) for number in range(count)]


def drawn(
    store: IconStore, seed: int, number: int, size: int, strength: float, held_out: bool
) -> Iterator[tuple[scenes.Drawn, Described]]:
    """The pictures of batch ``number``, each from a seed of its own."""
    table = store.table(held_out)
    for row in range(size):
        rng = np.random.default_rng((seed, number, row))
        scene = scenes.plan(table, rng)
        one = scenes.draw(scene, store, rng, strength)
        yield one, Described.of(scene, one.colours)


def _file(folder: Path, number: int) -> Path:
    return folder / f"pictures-{number:04d}.pt"


@torch.no_grad()
def _make(folder: Path, encoder: Path, seed: int, strength: float, numbers: list[int]) -> None:
    torch.set_num_threads(1)
    model = Blip2ForConditionalGeneration.from_pretrained(encoder, dtype=torch.float32).vision_model.eval()
    store = IconStore.load()
    for number in numbers:
        found = list(drawn(store, seed, number, PART, strength, held_out=False))
        pictures = [one.picture for one, _ in found]
        seen = [
            model(to_pixels(pictures[start : start + AT_ONCE])).last_hidden_state.half()
            for start in range(0, PART, AT_ONCE)
        ]
        truths = [(truth.counts, truth.ground, truth.tints) for _, truth in found]
        checkpoints.write(_file(folder, number), {"seen": torch.cat(seen), "truths": truths})


def _read(file: Path) -> Part:
    content = torch.load(file, mmap=True, weights_only=True)
    return Part(content["seen"], tuple(Described(*truth) for truth in content["truths"]))
