"""What a conversion is calibrated by: a few pictures, and prompts with answers about each.

The float32 model reads them once, layer by layer, to see by how much integers shift each layer's outputs on average.
They need not be true: what matters is that words of the usual kinds pass through every layer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.inspect import AnyCheckpoint, Checkpoint, is_chat
from ..checkpoint.tokenizer import Tokenizer
from ..engines.onnx.reference import Sample
from ..errors import CheckpointError, PictureError
from ..images import Preprocess, is_picture_file, open_picture, to_pixels
from ..prompts import TEMPLATES, Exchange

# Pictures of a folder that are used, in the order of their names.
MOST_PICTURES = 16
_CAPTION = "a dog and an apple on a blue background"
_TURNS: tuple[tuple[Exchange, ...], ...] = (
    (Exchange("what is on the left?", "a dog"), Exchange("and what is right of it?", "an apple")),
    (Exchange("how many people are there?", "two"), Exchange("is there a cat?", "no")),
    (Exchange("what do you see?", "a street with cars and a house"),),
)


@dataclass(frozen=True)
class Calibration:
    """How the integers of a conversion are calibrated.

    pictures: a folder of them, the first `MOST_PICTURES` by name; None: from the weights alone.
    """

    pictures: Path | None = None

    @property
    def identity(self) -> str:
        """The same for the same pictures."""
        if self.pictures is None:
            return "weights"
        digest = hashlib.sha256()
        for path in self._paths():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return f"pictures {digest.hexdigest()[:12]}"

    def samples(self, checkpoint: AnyCheckpoint) -> list[Sample]:
        """The samples for one checkpoint; `CheckpointError` when a folder has no picture that can be read."""
        if self.pictures is None:
            return []
        small = checkpoint.processor or checkpoint.folder
        preprocess = Preprocess.for_model(small, checkpoint.config.vision.image_size)
        # Of a retrieval model only the picture encoder is quantised.
        texts = _texts(checkpoint, small) if is_chat(checkpoint) else [([], [])]
        samples = []
        for path in self._paths():
            try:
                pixels = to_pixels(open_picture(path), preprocess)
            except PictureError as error:
                raise CheckpointError(f"the picture to calibrate with cannot be read: {error}") from None
            samples += [Sample(pixels, prompt, said) for prompt, said in texts]
        return samples

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


def _texts(checkpoint: Checkpoint, small: Path) -> list[tuple[list[int], list[int]]]:
    """The ids of prompts, and of the answers to them."""
    tokenizer = Tokenizer.from_folder(small, checkpoint.config.text)
    template = TEMPLATES[checkpoint.config.family]
    talks = [("", _CAPTION)]
    for turns in _TURNS:
        talks.append((template.render(turns[:-1], turns[-1].question), turns[-1].answer))
    return [(tokenizer.encode(prompt), tokenizer.encode_answer(answer, prompt)) for prompt, answer in talks]


DEFAULT = Calibration()
