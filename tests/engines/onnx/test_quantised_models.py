"""Whole quantised models stay close to transformers at full precision."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blip2_chat.checkpoint.config import FAMILIES
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.engines.onnx import load_onnx_engine
from blip2_chat.engines.onnx.convert import convert
from tests.support.reference import Reference
from tests.support.shapes import SHAPES
from tests.support.transformers_checkpoints import save_checkpoint


def relative(error: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt((error**2).mean() / (exact**2).mean()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("precision", "limit"), [("int8", 0.1), ("int4", 0.6)])
def test_models_of_odd_shapes(tmp_path: Path, shape: str, precision: Any, limit: float) -> None:
    """Widths below one block, where nothing averages out: a wrong layout would be off by 1.4 and more."""
    family, overrides = SHAPES[shape]
    save_checkpoint(tmp_path / "c", family, seed=1, **overrides)
    convert(inspect(tmp_path / "c"), tmp_path / "m", precision, block_size=16)
    engine, reference = load_onnx_engine(tmp_path / "m", threads=1), Reference(tmp_path / "c")
    size = engine.config.vision.image_size
    pixels = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    prompts = [[2, 9, 10, 11, 12], [2, 7]]
    instructions = [[2, 9, 8, 7, 3], [2, 3]]
    state, first = engine.prefill(engine.query(engine.encode_image(pixels), instructions), prompts)
    second = engine.step(state, [5, 6])
    for row in range(2):
        for logits, answer in ((first, []), (second, [5 + row])):
            expected = reference.logits(pixels[row], prompts[row], answer, instructions[row])
            assert relative(logits[row] - expected, expected) < limit


# Of six random models the errors are up to 0.035 for pictures, 0.058 at int8 and 0.43 at int4, and a CPU with other
# instructions rounds otherwise: the limits are twice that. A wrong layout would be off by 1.4 and more.
@pytest.mark.parametrize(("precision", "limit"), [("int8", 0.12), ("int4", 0.85)])
@pytest.mark.parametrize("family", FAMILIES)
def test_error_of_wide_random_layers(tmp_path: Path, family: str, precision: Any, limit: float) -> None:
    """Random weights are the worst case: a trained model's errors average out, these pass on."""
    text = {
        "opt": {"hidden_size": 512, "word_embed_proj_dim": 512, "ffn_dim": 2048, "num_attention_heads": 8},
        "t5": {"d_model": 512, "d_kv": 64, "d_ff": 1280, "num_heads": 8},
        "llama": {
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
        },
    }[family.removeprefix("instruct-")]
    vision = {"hidden_size": 352, "num_attention_heads": 4, "intermediate_size": 1536, "num_hidden_layers": 3}
    save_checkpoint(tmp_path / "c", family, seed=2, text=text, vision=vision)
    convert(inspect(tmp_path / "c"), tmp_path / "m", precision)
    engine, reference = load_onnx_engine(tmp_path / "m"), Reference(tmp_path / "c")
    pixels = np.random.default_rng(0).standard_normal((1, 3, 28, 28)).astype(np.float32)
    instruction = [2, 9, 8, 7, 3]
    vectors = engine.query(engine.encode_image(pixels), [instruction])
    expected = reference.query_vectors(pixels, [instruction])
    assert relative(vectors - expected, expected) < 0.07
    _, logits = engine.prefill(vectors, [[2, 9, 10, 11, 12]])
    expected = reference.logits(pixels[0], [2, 9, 10, 11, 12], [], instruction)
    assert relative(logits[0] - expected, expected) < limit
