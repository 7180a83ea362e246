"""Rounding that makes up for itself: the published algorithm's integers, found in another way."""

from __future__ import annotations

import numpy as np
import pytest

from blip2_chat.engines.onnx.graph import gptq, quantise

# Rows, columns, inputs, columns per scale: fewer inputs than columns, more, blocks that the columns do not fill.
SHAPES = [(24, 192, 60, 64), (24, 96, 400, 32), (16, 200, 90, 64), (16, 48, 30, 256)]


def layer(n: int, k: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix and inputs that depend on each other, some of them large."""
    chance = np.random.default_rng(n + k + t)
    inputs = chance.standard_normal((t, k)) @ chance.standard_normal((k, k)) / k**0.5
    inputs[:, ::7] *= 5
    weight = chance.standard_normal((n, k)).astype(np.float32)
    return weight, (inputs + chance.standard_normal(k)).astype(np.float32)


def column_by_column(weight: np.ndarray, inputs: np.ndarray, block_size: int) -> np.ndarray:
    """Frantar et al. 2022, equations 2 and 3, as they stand: the Hessian, its inverse, a column at a time."""
    n, k = weight.shape
    hessian = inputs.T.astype(np.float64) @ inputs
    hessian += gptq.DAMPING * np.trace(hessian) / k * np.eye(k)
    inverse = np.linalg.inv(hessian)
    left, rounded = weight.astype(np.float64), np.zeros((n, k))
    for at in range(k):
        if at % block_size == 0:
            scale = quantise.block_scales(left[:, at : at + block_size].astype(np.float32), 4)
        rounded[:, at] = np.clip(np.rint(left[:, at] / scale), -8, 7) * scale
        error = (left[:, at] - rounded[:, at]) / inverse[at, at]
        left -= np.outer(error, inverse[at])
        inverse -= np.outer(inverse[:, at], inverse[at]) / inverse[at, at]
    return rounded


def restored(made: tuple[np.ndarray, np.ndarray], k: int) -> np.ndarray:
    return quantise.restored_blocks(*made, 4, k)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_integers_are_those_of_the_published_algorithm(shape: tuple[int, int, int, int]) -> None:
    *size, block_size = shape
    weight, inputs = layer(*size)
    found = restored(gptq.blocks(weight, inputs, 4, block_size), weight.shape[1])
    np.testing.assert_allclose(found, column_by_column(weight, inputs, block_size), atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_outputs_are_nearer_than_those_of_plain_rounding(shape: tuple[int, int, int, int]) -> None:
    *size, block_size = shape
    weight, inputs = layer(*size)

    def error(made: tuple[np.ndarray, np.ndarray]) -> float:
        return float(np.linalg.norm(inputs @ (weight - restored(made, weight.shape[1])).T))

    plain = error(quantise.blocks(weight, 4, block_size))
    assert error(gptq.blocks(weight, inputs, 4, block_size)) < 0.8 * plain


def test_inputs_of_zeros_leave_plain_rounding() -> None:
    weight, inputs = layer(8, 64, 10)
    for found, plain in zip(
        gptq.blocks(weight, np.zeros_like(inputs), 4, 32), quantise.blocks(weight, 4, 32), strict=True
    ):
        np.testing.assert_array_equal(found, plain)


def test_columns_without_weights_or_inputs() -> None:
    weight, inputs = layer(8, 64, 10)
    weight[:, 32:], inputs[:, :8] = 0, 0
    weight[3] = 0
    found = restored(gptq.blocks(weight, inputs, 4, 32), 64)
    assert np.isfinite(found).all()
    assert not found[3].any()
