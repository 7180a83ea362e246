"""Calibration of a conversion, with a few pictures and prompts with answers about each.

The float32 model reads them once, layer by layer. So int4's integers are chosen for realistic inputs of each
layer, and the mean error of each layer's outputs is corrected. The answers need not be true: what matters is
that usual words pass through every layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.inspect import AnyCheckpoint, is_chat, is_retrieval
from ..engines.onnx.fidelity import seconds_to_calibrate
from ..engines.onnx.reference import Sample
from ..errors import CheckpointError, PictureError
from ..images import Picture, is_picture_file, open_picture
from ..prompts import Exchange
from .retrieval_samples import encoder_samples, shipped_pictures
from .samples import SampleMaker, shipped_identity, shipped_samples

# Pictures of a folder that are used, in the order of their names.
MOST_PICTURES = 16
# Of the shipped samples; the others are left to measure with (`fidelity.py`).
SHIPPED_PICTURES, SHIPPED_QUESTIONS = 4, 2
# About a folder's pictures, by turns.
_CAPTION = "a dog and an apple on a blue background"
_TALKS: tuple[tuple[Exchange, ...], ...] = (
    (Exchange("what is on the left?", "a dog"), Exchange("and what is right of it?", "an apple")),
    (Exchange("how many people are there?", "two"), Exchange("is there a cat?", "no")),
    (Exchange("what do you see?", "a street with cars and a house"),),
)
# Tokens of a sample's prompt and answer together, usually.
_USUAL_TOKENS = 14
# Raise this if the same samples give other integers, so that older conversions are repeated.
_METHOD = "gptq-1"


@dataclass(frozen=True)
class Calibration:
    """How the integers of a conversion are calibrated.

    is_on: False, from the weights alone.
    pictures: a folder of them, the first `MOST_PICTURES` by name; None: those that ship with the package.
    """

    is_on: bool = True
    pictures: Path | None = None

    @property
    def identity(self) -> str:
        """The same for the same pictures."""
        if not self.is_on:
            return "weights"
        if self.pictures is None:
            return f"{_METHOD} shipped {shipped_identity()}"
        digest = hashlib.sha256()
        for path in self._paths():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return f"{_METHOD} pictures {digest.hexdigest()[:12]}"

    def samples(self, checkpoint: AnyCheckpoint) -> list[Sample]:
        """The samples for one checkpoint: none when it is off, or when all are longer than the model's context.
        `CheckpointError` when a folder has no picture that can be read."""
        if not self.is_on:
            return []
        if is_retrieval(checkpoint):
            given = shipped_pictures(slice(SHIPPED_PICTURES)) if self.pictures is None else self._opened()
            return encoder_samples(checkpoint, given)
        assert is_chat(checkpoint)
        if self.pictures is None:
            return shipped_samples(
                checkpoint, slice(SHIPPED_PICTURES), SHIPPED_QUESTIONS, with_conversation=True
            )
        make = SampleMaker(checkpoint)
        samples = []
        for number, picture in enumerate(self._opened()):
            texts = [make.caption(_CAPTION), make.talk(_TALKS[number % len(_TALKS)])]
            samples += make(picture, texts)
        return samples

    def seconds(self, checkpoint: AnyCheckpoint, precision: str) -> float:
        """How long it may take here."""
        if not self.is_on or precision == "fp32":
            return 0.0
        pictures, texts = SHIPPED_PICTURES, 2 + SHIPPED_QUESTIONS
        if self.pictures is not None:
            pictures, texts = len(self._paths()), 2
        tokens = pictures * texts * (checkpoint.config.num_query_tokens + _USUAL_TOKENS)
        return seconds_to_calibrate(checkpoint, precision, pictures, tokens)

    def _opened(self) -> Iterator[Picture]:
        for path in self._paths():
            try:
                yield open_picture(path)
            except PictureError as error:
                raise CheckpointError(f"the picture to calibrate with cannot be read: {error}") from None

    def _paths(self) -> list[Path]:
        assert self.pictures is not None
        try:
            found = sorted(
                path for path in self.pictures.iterdir() if path.is_file() and is_picture_file(path)
            )
        except OSError as error:
            raise CheckpointError(f"{self.pictures} cannot be read: {error.strerror}") from None
        if not found:
            raise CheckpointError(f"{self.pictures} has no pictures to calibrate with")
        return found[:MOST_PICTURES]


DEFAULT = Calibration()
NONE = Calibration(is_on=False)
