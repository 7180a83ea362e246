"""Measures after a conversion how closely it follows the checkpoint, on the pictures that ship with the package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..checkpoint.inspect import AnyCheckpoint, is_chat
from ..checkpoint.retrieval_config import RetrievalConfig
from ..checkpoint.tokenizer import Tokenizer
from ..checkpoint.wordpiece import WordPiece
from ..engines.onnx.fidelity import (
    Comparison,
    Progress,
    converted_outputs,
    estimated_seconds,
    reference_outputs,
    reference_size,
)
from ..engines.onnx.manifest import Fidelity
from ..engines.onnx.reference import Sample
from ..images import Preprocess, open_picture, to_pixels
from ..prompts import TEMPLATES

_SAMPLES = Path(__file__).parents[1] / "demo" / "samples"
# Captions of the first so many pictures, and questions about the first of these: each takes float32 as long as a few
# tokens of an answer, and at opt-2.7b's size the whole should not take longer than the conversion.
_PICTURES, _QUESTIONS = 4, 2
# Of a shipped sample's prompt and answer together.
_USUAL_TOKENS = 12


def shipped_samples(checkpoint: AnyCheckpoint) -> list[Sample]:
    """A few shipped pictures with their captions, and questions with their answers. Those that are longer than the
    model's context are left out. For a retrieval model: each picture with the captions of all."""
    if not is_chat(checkpoint):
        return _pairs(checkpoint)
    config = checkpoint.config
    small = checkpoint.processor or checkpoint.folder
    tokenizer = Tokenizer.from_folder(small, config.text)
    preprocess = Preprocess.for_model(small, config.vision.image_size)
    template = TEMPLATES[config.family]
    samples = []
    for number, about in enumerate(_about()[:_PICTURES]):
        pixels = to_pixels(open_picture(_SAMPLES / about["picture"]), preprocess)
        texts = [(template.caption, about["caption"])]
        for asked in about["questions"][: number < _QUESTIONS]:
            texts.append((template.render((), asked["question"]), asked["answer"]))
        for prompt, answer in texts:
            sample = Sample(pixels, tokenizer.encode(prompt), tokenizer.encode_answer(answer, prompt))
            if len(sample.prompt) + len(sample.answer) <= config.prompt_budget:
                samples.append(sample)
    return samples


def _pairs(checkpoint: AnyCheckpoint) -> list[Sample]:
    config = checkpoint.config
    assert isinstance(config, RetrievalConfig)
    small = checkpoint.processor or checkpoint.folder
    tokenizer = WordPiece.from_folder(small, config)
    preprocess = Preprocess.for_model(small, config.vision.image_size)
    about = _about()[:_PICTURES]
    texts = [tokenizer.encode(one["caption"]) for one in about]
    pictures = [to_pixels(open_picture(_SAMPLES / one["picture"]), preprocess) for one in about]
    return [Sample(pixels, text, []) for pixels in pictures for text in texts]


@lru_cache(maxsize=1)
def _about() -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads((_SAMPLES / "samples.json").read_text(encoding="utf-8"))
    return read


def measured(
    checkpoint: AnyCheckpoint, folder: Path, samples: Sequence[Sample], progress: Progress
) -> Fidelity | None:
    """How closely the conversion in `folder` follows the checkpoint; None when there are no samples. One pass over
    the float32 weights and one over the converted ones; `progress` is called with bytes done and in all."""
    if not samples:
        return None
    exact = reference_size(checkpoint)
    total = exact + sum(path.stat().st_size for path in folder.glob("*.data"))
    reference = reference_outputs(checkpoint, samples, lambda done, _: progress(done, total))
    converted = converted_outputs(folder, samples, lambda done, _: progress(min(exact + done, total), total))
    comparison = Comparison()
    comparison.add(samples, reference, converted)
    return comparison.result()


def seconds_to_measure(checkpoint: AnyCheckpoint) -> float:
    """How long `measured` may take here with the shipped samples."""
    texts = _PICTURES + _QUESTIONS if is_chat(checkpoint) else _PICTURES**2
    tokens = texts * (checkpoint.config.num_query_tokens + _USUAL_TOKENS)
    # The converted weights are fewer bytes, and as many operations on smaller numbers.
    return 1.5 * estimated_seconds(checkpoint, _PICTURES, tokens)


def described(fidelity: Fidelity, precision: str, *, is_retrieval: bool = False) -> str:
    """One line for people."""
    if is_retrieval:
        return (
            f"{precision} follows fp32: {fidelity.agreement:.1%} of {fidelity.tokens} matches of a picture with a "
            f"text agree, the embeddings of {fidelity.pictures} pictures differ by {fidelity.vector_error:.1%}"
        )
    return (
        f"{precision} follows fp32: {fidelity.agreement:.1%} of {fidelity.tokens} next tokens agree, "
        f"the query vectors of {fidelity.pictures} pictures differ by {fidelity.vector_error:.1%}"
    )
