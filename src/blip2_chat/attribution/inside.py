"""Attention and gradients, from the inside of an engine that can be looked into: per patch of the picture encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..checkpoint.tokenizer import Tokenizer
from ..engines.engine import Engine, Floats, Given, Inspectable
from ..errors import GenerationError, Parameter
from ..generation.rows import Choice
from .found import Found, Steps


def attending(
    engine: Engine, tokenizer: Tokenizer, pixels: Floats, prompt: str, answer: Choice, parts: Sequence[slice]
) -> Steps:
    """Where the Q-Former looked for what the language model draws on; see `Inspectable.attention`.

    Every patch has some attention, so the least of each map counts as nothing. A part's weight is its attention to
    the picture, in all.
    """
    inside = _inside(engine, "attention")
    patches = inside.attention(pixels, _given(tokenizer, prompt, answer, parts))
    yield 1, 1
    return [Found(_spread(row - row.min(), pixels.shape[-1]), float(row.sum())) for row in patches]


def integrating(
    engine: Engine, tokenizer: Tokenizer, pixels: Floats, prompt: str, answer: Choice, parts: Sequence[slice]
) -> Steps:
    """Integrated gradients; see `Inspectable.gradient`. What speaks against the answer counts as nothing. A part's
    weight is what speaks for it, in nats."""
    inside = _inside(engine, "gradient")
    patches = None
    for done, total, patches in inside.gradient(pixels, _given(tokenizer, prompt, answer, parts)):  # noqa: B007
        yield done, total
    assert patches is not None
    positive = np.maximum(patches, 0)
    return [Found(_spread(row, pixels.shape[-1]), float(row.sum())) for row in positive]


def _inside(engine: Engine, method: str) -> Inspectable:
    if not isinstance(engine, Inspectable):
        raise GenerationError(
            f"the method {method} looks into the model, which the {engine.name} engine cannot: use ",
            Parameter("method", "occlusion"),
            ", or load the model with ",
            Parameter("engine", "torch"),
        )
    return engine


def _given(tokenizer: Tokenizer, prompt: str, answer: Choice, parts: Sequence[slice]) -> Given:
    # Without the end token, which says where the answer ends and nothing about the picture.
    return Given(tokenizer.encode(prompt), answer.token_ids[:-1], parts, tokenizer.instruction(prompt))


def _spread(patches: Floats, side: int) -> Floats:
    """Patches, row by row -> [side, side], the largest 1."""
    rows = round(len(patches) ** 0.5)
    grid = Image.fromarray(patches.reshape(rows, rows).astype(np.float32))
    heat = np.asarray(grid.resize((side, side), Image.Resampling.BILINEAR), np.float32)
    spread: Floats = (heat / (heat.max() or 1)).astype(np.float32)
    return spread
