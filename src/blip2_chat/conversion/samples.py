"""Pictures with prompts and answers for one checkpoint: what conversions are calibrated by, and measured on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..checkpoint.inspect import Checkpoint
from ..checkpoint.tokenizer import Tokenizer
from ..engines.onnx.reference import Sample
from ..images import Picture, Preprocess, open_picture, to_pixels
from ..prompts import TEMPLATES, Exchange

_SHIPPED = Path(__file__).parents[1] / "demo" / "samples"


class SampleMaker:
    """Makes samples for one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        small = checkpoint.processor or checkpoint.folder
        self._config = checkpoint.config
        self._tokenizer = Tokenizer.from_folder(small, self._config)
        self._preprocess = Preprocess.for_model(small, self._config.vision.image_size)
        self._template = TEMPLATES[self._config.family]

    def caption(self, caption: str) -> tuple[str, str]:
        """(Prompt, answer) of a caption."""
        return self._template.caption, caption

    def talk(self, turns: Sequence[Exchange]) -> tuple[str, str]:
        """(Prompt, answer) of the last turn of a conversation."""
        return self._template.render(turns[:-1], turns[-1].question), turns[-1].answer

    def __call__(self, picture: Picture, texts: Sequence[tuple[str, str]]) -> list[Sample]:
        """A sample per prompt and answer about a picture; those longer than the model's context are left out."""
        pixels = to_pixels(picture, self._preprocess)
        made = []
        for prompt, answer in texts:
            sample = Sample(
                pixels,
                self._tokenizer.encode(prompt),
                self._tokenizer.encode_answer(answer, prompt),
                self._tokenizer.instruction(prompt),
            )
            if len(sample.prompt) + len(sample.answer) <= self._config.prompt_budget:
                made.append(sample)
        return made


def shipped_samples(
    checkpoint: Checkpoint, pictures: slice, questions: int, with_conversation: bool = False
) -> list[Sample]:
    """Of some of the pictures that ship with the package: their captions, so many questions about each, and the
    last turn of a conversation."""
    make = SampleMaker(checkpoint)
    samples: list[Sample] = []
    for about in _about()[pictures]:
        texts = [make.caption(about["caption"])]
        for asked in about["questions"][:questions]:
            texts.append(make.talk([Exchange(asked["question"], asked["answer"])]))
        if with_conversation:
            texts.append(make.talk([Exchange(*turn) for turn in about["conversation"]]))
        samples += make(open_picture(_SHIPPED / about["picture"]), texts)
    return samples


@lru_cache(maxsize=1)
def shipped_identity() -> str:
    """Another one for other shipped pictures or texts."""
    digest = hashlib.sha256()
    for path in sorted(_SHIPPED.iterdir()):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


@lru_cache(maxsize=1)
def _about() -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads((_SHIPPED / "samples.json").read_text(encoding="utf-8"))
    return read
