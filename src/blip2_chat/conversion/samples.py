"""Pictures with prompts and answers for one checkpoint: what conversions are calibrated by, and measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from ..checkpoint.embedded import SAMPLES, sample_pictures
from ..checkpoint.inspect import Checkpoint
from ..checkpoint.tokenizer import Tokenizer
from ..engines.onnx.reference import Sample
from ..images import Picture, Preprocess, open_picture, to_pixels
from ..prompts import TEMPLATES, Exchange


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
    """Samples of some shipped pictures: their captions, a number of questions about each, and the last turn of a
    conversation."""
    make = SampleMaker(checkpoint)
    samples: list[Sample] = []
    for one in sample_pictures()[pictures]:
        texts = [make.caption(one.caption)]
        for asked in list(one.questions.items())[:questions]:
            texts.append(make.talk([Exchange(*asked)]))
        if with_conversation:
            texts.append(make.talk([Exchange(*turn) for turn in one.conversation]))
        samples += make(open_picture(one.path), texts)
    return samples


@lru_cache(maxsize=1)
def shipped_identity() -> str:
    """A hash that changes with the shipped pictures and texts."""
    digest = hashlib.sha256()
    for path in sorted(SAMPLES.iterdir()):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]
