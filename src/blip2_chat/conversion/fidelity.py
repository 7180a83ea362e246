"""Measures after a conversion how closely it follows the checkpoint, on pictures that ship with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..checkpoint.embedded import sample_pictures
from ..checkpoint.inspect import AnyCheckpoint, is_chat, is_retrieval
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
from .calibration import SHIPPED_PICTURES
from .retrieval_samples import pairs
from .samples import shipped_samples

# Shipped pictures that calibration does not use: on those that it does, the integers would look better than
# they are. Each text takes float32 as long as a few tokens of an answer, and at opt-2.7b's size the whole
# should not take longer than the conversion.
_FIRST, _QUESTIONS = SHIPPED_PICTURES, 2
_PICTURES = 2
# Of a shipped sample's prompt and answer together.
_USUAL_TOKENS = 12


def fidelity_samples(checkpoint: AnyCheckpoint) -> list[Sample]:
    """A few shipped pictures with their captions, and questions with their answers; for a retrieval model, with the
    captions of all that there are."""
    if is_retrieval(checkpoint):
        return pairs(checkpoint, slice(_FIRST, _FIRST + _PICTURES))
    assert is_chat(checkpoint)
    return shipped_samples(checkpoint, slice(_FIRST, _FIRST + _PICTURES), _QUESTIONS)


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
    texts = 1 + _QUESTIONS if is_chat(checkpoint) else len(sample_pictures())
    tokens = _PICTURES * texts * (checkpoint.config.num_query_tokens + _USUAL_TOKENS)
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
