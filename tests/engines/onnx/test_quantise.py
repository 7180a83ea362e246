"""Integers for weights: exact where they promise to be, and close where they cannot."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from blip2_chat.engines.onnx.graph import quantise
from blip2_chat.engines.onnx.graph.builder import Graph, Scheme
from blip2_chat.engines.onnx.graph.tensors import FLOAT, constant


def weights(seed: int, n: int, k: int, heavy: float = 0.0) -> np.ndarray:
    """Normal, or with `heavy` tails."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, k)) * np.exp(heavy * rng.standard_normal((n, k)))).astype(np.float32)


def dequantised(packed: np.ndarray, scales: np.ndarray, bits: int, k: int) -> np.ndarray:
    """MatMulNBits' layout read back, from the operator's description."""
    integers = packed.astype(np.int64)
    if bits == 4:
        integers = np.stack([integers & 15, integers >> 4], axis=-1).reshape(*packed.shape[:2], -1)
    values = (integers - (1 << (bits - 1))) * scales[..., None]
    return values.reshape(len(packed), -1)[:, :k]


def relative(error: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt((error**2).mean() / (exact**2).mean()))


def run_linear(x: np.ndarray, weight: np.ndarray, scheme: Scheme) -> np.ndarray:
    g = Graph("linear")
    bias = constant(np.linspace(-1, 1, len(weight), dtype=np.float32))
    y = g.linear(g.input("x", FLOAT, "B", x.shape[1]), constant(weight), bias, scheme)
    g.output(y, "y", FLOAT, "B", len(weight))
    stored = [
        numpy_helper.from_array(array, output.name)
        for recipe in g.recipes
        for output, array in zip(recipe.outputs, recipe.make(recipe.tensor.make()), strict=True)
    ]
    session = ort.InferenceSession(g.model(stored).SerializeToString())
    return session.run(None, {"x": x})[0] - bias.make()


@given(
    st.integers(0, 2**31),
    st.integers(1, 40),
    st.sampled_from([0.0, 1.0, 3.0]),
    st.sampled_from(["normal", "equal", "zero", "tiny"]),
)
@settings(max_examples=60, deadline=None)
def test_pairs_never_overflow_16_bits(seed: int, k: int, heavy: float, kind: str) -> None:
    weight = weights(seed, 8, k, heavy)
    weight *= {"normal": 1, "equal": 0, "zero": 0, "tiny": 1e-38}[kind]
    weight += 1 if kind == "equal" else 0
    integers, scales = quantise.columns(weight)
    # The largest and the smallest sums of two products with activations from 0 to 255.
    wide = integers.astype(np.int64)
    high, low = 255 * np.maximum(wide, 0), 255 * np.minimum(wide, 0)
    assert (high[1:] + high[:-1]).max(initial=0) < 2**15
    assert (low[1:] + low[:-1]).min(initial=0) >= -(2**15)
    assert np.isfinite(scales).all() and (scales > 0).all()
    np.testing.assert_allclose(
        integers.T * scales[:, None], weight, rtol=0, atol=scales.max() * 0.5001 + 1e-44
    )


def test_columns_keep_more_than_seven_bits() -> None:
    weight = weights(0, 256, 1408)
    integers, scales = quantise.columns(weight)
    error = relative(integers.T * scales[:, None] - weight, weight)
    seven = np.abs(weight).max(1, keepdims=True) / 63
    assert error < 0.75 * relative(np.rint(weight / seven) * seven - weight, weight)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("k", "block"), [(64, 16), (50, 32), (7, 16), (300, 128), (256, 256)])
def test_blocks_read_back(bits: int, k: int, block: int) -> None:
    weight = weights(1, 24, k)
    weight[3] = 0
    weight[5, : k // 2] *= 1e-30
    packed, scales = quantise.blocks(weight, bits, block)
    assert packed.shape == (24, -(-k // block), block * bits // 8) and packed.dtype == np.uint8
    error = np.abs(dequantised(packed, scales, bits, k) - weight)
    per_block = np.pad(error, ((0, 0), (0, -k % block))).reshape(24, -1, block).max(-1)
    if bits == 8:
        assert (per_block <= np.abs(scales) * 0.5001).all()
    else:
        # The range may be cut, at worst to 70 % of the largest weight.
        assert (per_block <= np.abs(scales) * 4).all()
    assert not dequantised(packed, scales, bits, k)[3].any()


@pytest.mark.parametrize("heavy", [0.0, 0.5])
def test_four_bit_scales_beat_the_largest_weight(heavy: float) -> None:
    weight = weights(2, 64, 1024, heavy)
    packed, scales = quantise.blocks(weight, 4, 128)
    blocks = weight.reshape(64, -1, 128)
    simple = np.abs(blocks).max(-1, keepdims=True) / 7
    naive = (np.rint(blocks / simple) * simple).reshape(weight.shape)
    best = dequantised(packed, scales, 4, 1024)
    assert relative(best - weight, weight) < 0.87 * relative(naive - weight, weight)


def test_a_large_matrix_is_quantised_in_pieces() -> None:
    weight = weights(3, 5000, 1024)
    packed, scales = quantise.blocks(weight, 8, 128)
    first, last = quantise.blocks(weight[:2500], 8, 128), quantise.blocks(weight[2500:], 8, 128)
    np.testing.assert_array_equal(packed, np.concatenate([first[0], last[0]]))
    np.testing.assert_array_equal(scales, np.concatenate([first[1], last[1]]))


@pytest.mark.parametrize(
    ("scheme", "limit"),
    [
        (Scheme("float"), 1e-5),
        (Scheme("columns"), 0.02),
        (Scheme("blocks", 8, 16), 0.015),
        (Scheme("blocks", 8, 128), 0.015),
        (Scheme("blocks", 4, 16), 0.09),
        (Scheme("blocks", 4, 128), 0.12),
    ],
    ids=str,
)
@pytest.mark.parametrize("k", [37, 130, 512])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_the_operators_agree(scheme: Scheme, limit: float, k: int, rows: int) -> None:
    weight = weights(4, 48, k)
    x = np.random.default_rng(5).standard_normal((rows, k)).astype(np.float32)
    exact = x @ weight.T
    assert relative(run_linear(x, weight, scheme) - exact, exact) < limit


@pytest.mark.parametrize("scheme", [Scheme("columns"), Scheme("blocks", 8, 32)], ids=str)
def test_one_huge_row_leaves_the_others_alone(scheme: Scheme) -> None:
    weight = weights(6, 48, 256)
    x = np.random.default_rng(7).standard_normal((20, 256)).astype(np.float32)
    x[4, 9] = 5000
    x[5] = 0
    y, exact = run_linear(x, weight, scheme), x @ weight.T
    others = [row for row in range(20) if row not in (4, 5)]
    assert relative((y - exact)[others], exact[others]) < 0.02
    np.testing.assert_allclose(y[5], 0, atol=1e-5)
