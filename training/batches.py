"""Training batches: pictures drawn on the fly, their truth, and conversations as token sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from . import scenes
from .heads import NONE, SceneTargets
from .icons import IconStore
from .questions import Asker, Turn, caption
from .tokenizer import BOS_ID, PAD_ID, newline_id
from .wordings import CAPTION_STARTS

IGNORED = -100
MAX_TOKENS = 80
MAX_TURNS = 6
LEAST_GROUND = 10  # patches of the background that are kept in any case


@dataclass(frozen=True)
class Sequences:
    """Token ids (B, T) after the picture's vectors, and what follows each (-100: not taught)."""

    tokens: Tensor
    targets: Tensor
    rows: Tensor  # which picture of the batch each belongs to


@dataclass(frozen=True)
class Batch:
    pixels: Tensor
    truth: SceneTargets
    talks: Sequences
    captions: Sequences
    kept: Tensor | None = None  # (B, K) numbers of the patches to look at; None: all


class Writer:
    """Turns conversations into tokens and targets. Only answers are taught, each ended by a newline.

    In a running conversation the token after an answer is "." but its target is the newline: that is
    what the model has to say when it is asked there.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.stop = newline_id(tokenizer)
        self._encode = lru_cache(maxsize=200_000)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
        )

    def prompt_and_answer(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        before, said = self._encode(prompt), self._encode(answer)
        tokens = [BOS_ID, *before, *said]
        targets = [IGNORED] * len(before) + [*said, self.stop]
        return tokens, targets

    def conversation(self, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
        """As many of the turns as fit."""
        tokens, targets = [BOS_ID], [IGNORED]
        for index, turn in enumerate(turns):
            asked = self._encode(f"{'. ' if index else ''}Question: {turn.question} Answer:")
            said = self._encode(f" {turn.answer}")
            if index and len(tokens) + len(asked) + len(said) > MAX_TOKENS:
                break
            tokens += [*asked, *said]
            # every target sits one place before its token
            targets = targets[:-1] + ([self.stop] if index else [IGNORED])
            targets += [IGNORED] * (len(asked) - 1) + [*said, IGNORED]
        targets[-1] = self.stop
        return tokens, targets


def pad(rows: list[tuple[int, list[int], list[int]]]) -> Sequences:
    """Right-padded; attention is causal, so what is behind a sequence does not reach it."""
    length = max((len(tokens) for _, tokens, _ in rows), default=1)
    tokens = torch.full((len(rows), length), PAD_ID)
    targets = torch.full((len(rows), length), IGNORED)
    for index, (_, ids, wanted) in enumerate(rows):
        tokens[index, : len(ids)] = torch.tensor(ids)
        targets[index, : len(wanted)] = torch.tensor(wanted)
    return Sequences(tokens, targets, torch.tensor([row for row, _, _ in rows], dtype=torch.long))


def to_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Normalised as ``BlipImageProcessor`` does it (the pictures have the model's size already)."""
    stacked = np.stack([np.asarray(picture) for picture in pictures]).astype(np.float32) / 255
    normal = (stacked - np.array(OPENAI_CLIP_MEAN, np.float32)) / np.array(OPENAI_CLIP_STD, np.float32)
    return torch.from_numpy(normal).permute(0, 3, 1, 2).contiguous()


def patches_to_keep(kinds: NDArray[np.int64], count: int, rng: Generator) -> NDArray[np.int64]:
    """The numbers of ``count`` patches: some of the background, then all that show things as far as there
    is room, then more of the background."""
    order = rng.permutation(len(kinds))
    ground, things = order[kinds[order] == 0], order[kinds[order] != 0]
    return np.sort(np.concatenate([ground[:LEAST_GROUND], things, ground[LEAST_GROUND:]])[:count])


def scene_truth(planned: Sequence[scenes.Scene], drawn: Sequence[scenes.Drawn]) -> SceneTargets:
    """Targets of the throw-away heads: things from left to right, then from top to bottom."""
    slots = np.full((len(planned), 2 * scenes.MAX_THINGS), NONE, np.int64)
    places = np.zeros((len(planned), 2 * scenes.MAX_THINGS, 3), np.float32)
    patches = [one.patches for one in drawn]
    ranks = np.full((len(planned), 2, len(patches[0].thing)), IGNORED, np.int64)
    patch_tints = np.full((len(planned), len(patches[0].thing)), IGNORED, np.int64)
    slot_tints = np.full((len(planned), 2 * scenes.MAX_THINGS), IGNORED, np.int64)
    for row, scene in enumerate(planned):
        tints = [IGNORED if colour is None else colour for colour in drawn[row].colours]
        for index, tint in enumerate(tints):
            patch_tints[row, patches[row].thing == index] = tint
        down = sorted(range(len(scene.things)), key=lambda index: scene.things[index].y)
        for index in range(len(scene.things)):
            ranks[row, 0, patches[row].thing == index] = index
            ranks[row, 1, patches[row].thing == index] = down.index(index)
        for start, order in ((0, range(len(scene.things))), (scenes.MAX_THINGS, down)):
            for index, number in enumerate(order):
                thing = scene.things[number]
                slot_tints[row, start + index] = tints[number]
                slots[row, start + index] = thing.kind + 1
                places[row, start + index] = (thing.x, thing.y, thing.size)
    return SceneTargets(
        torch.from_numpy(np.stack([patch.kind for patch in patches])),
        torch.from_numpy(ranks),
        torch.from_numpy(slots),
        torch.from_numpy(places),
        torch.tensor([scene.colour for scene in planned]),
        torch.tensor([len(scene.things) for scene in planned]),
        torch.from_numpy(patch_tints),
        torch.from_numpy(slot_tints),
    )


class SceneBatches(Dataset[Batch]):
    """Batch number → batch; the same number and seed always give the same batch."""

    def __init__(
        self, store: IconStore, tokenizer: PreTrainedTokenizerFast, seed: int, size: int,
        held_out: bool = False, strength: float = 1.0, length: int = 10**9,
    ) -> None:  # fmt: skip
        self.store, self.tokenizer, self.seed, self.size = store, tokenizer, seed, size
        self.table = store.table(held_out)
        self.strength, self.length = strength, length
        self.keep = 0  # how many patches of each picture to look at; 0: all
        self._writer: Writer | None = None

    def __len__(self) -> int:
        return self.length

    def _caption_row(
        self, scene: scenes.Scene, writer: Writer, rng: Generator
    ) -> tuple[list[int], list[int]]:
        text = caption(scene)
        if rng.random() < 0.6:
            return writer.prompt_and_answer("", text)
        return writer.prompt_and_answer(str(rng.choice(CAPTION_STARTS)), " " + text)

    def __getitem__(self, number: int) -> Batch:
        if number >= self.length:
            raise IndexError(number)
        writer = self._writer = self._writer or Writer(self.tokenizer)
        planned, drawn, talks, captions, kept = [], [], [], [], []
        for row in range(self.size):
            rng = np.random.default_rng((self.seed, number, row))
            scene = scenes.plan(self.table, rng)
            shown = scenes.draw(scene, self.store, rng, self.strength)
            planned.append(scene)
            drawn.append(shown)
            # The vision side needs the most pictures by far, so half of them are only looked at.
            if row % 2 == 0:
                turns = Asker(scene, rng, shown.colours).conversation(int(rng.integers(3, MAX_TURNS + 1)))
                talks.append((row, *writer.conversation(turns)))
            if row % 4 == 1:
                captions.append((row, *self._caption_row(scene, writer, rng)))
            if self.keep:
                kept.append(patches_to_keep(shown.patches.kind, self.keep, rng))
        pixels, truth = to_pixels([one.picture for one in drawn]), scene_truth(planned, drawn)
        if not self.keep:
            return Batch(pixels, truth, pad(talks), pad(captions))
        chosen = torch.from_numpy(np.stack(kept))
        return Batch(pixels, truth.at_patches(chosen), pad(talks), pad(captions), chosen)
