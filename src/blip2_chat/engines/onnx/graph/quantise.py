"""Weights as small integers.

Two layouts, for two operators of ONNX Runtime (docs/ContribOperators.md):

- `blocks` for MatMulNBits: along the inputs, each block of 16 to 256 weights has a scale of its own, as in
  LLM.int8()'s successors and llama.cpp's Q4_0/Q8_0. The operator quantises the activations per block as well, so an
  outlier channel costs its own block some precision and no other.
- `columns` for DynamicQuantizeMatMul: one scale per output. Without VNNI, x86 adds the products of two adjacent
  inputs in 16 bits (vpmaddubsw), where 255 * (w0 + w1) may not fit
  (https://github.com/microsoft/onnxruntime/issues/6004). The usual remedy is 7-bit weights; here each output's scale
  is the smallest at which none of its pairs overflows, which leaves about 7.6 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...engine import Floats

# 255 * 128 < 2**15
_PAIR_LIMIT = 128


def columns(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """[N, K] -> (integers [K, N], scales [N]); weight ~ integers.T * scales[:, None].

    Any two adjacent inputs' integers of one sign add up to 128 at most (either alignment: the kernels' pairs
    start at even inputs, but no documentation promises that).
    """
    size = np.abs(weight)
    pairs = size[:, 1:] + size[:, :-1]
    pairs[(weight[:, 1:] < 0) != (weight[:, :-1] < 0)] = 0
    # Both may be rounded up by a half: one less than the limit.
    scale = np.maximum(size.max(axis=1) / 127, pairs.max(axis=1, initial=0) / (_PAIR_LIMIT - 1))
    np.maximum(scale, np.finfo(np.float32).tiny, out=scale)
    integers = np.rint(weight / scale[:, None]).astype(np.int8)
    return np.ascontiguousarray(integers.T), scale.astype(np.float32)


def blocks(weight: Floats, bits: int, block_size: int) -> tuple[NDArray[np.uint8], Floats]:
    """[N, K] -> (packed [N, ceil(K/block), block*bits/8], scales [N, ceil(K/block)]).

    Integers are stored with 2**(bits-1) added; two 4-bit ones share a byte, the first in its low half. The last
    block is filled up with zeros.
    """
    # Piece by piece: a vocabulary's matrix at once would need several copies of half a gigabyte.
    rows = max(1, 2**22 // weight.shape[1])
    parts = [_blocks(weight[start : start + rows], bits, block_size) for start in range(0, len(weight), rows)]
    return np.concatenate([packed for packed, _ in parts]), np.concatenate([scales for _, scales in parts])


def _blocks(weight: Floats, bits: int, block_size: int) -> tuple[NDArray[np.uint8], Floats]:
    n, k = weight.shape
    values = np.pad(weight, ((0, 0), (0, -k % block_size))).reshape(n, -1, block_size)
    scales = block_scales(values, bits)
    return _packed(_integers(values, scales, 1 << (bits - 1)), bits), scales


def block_scales(values: Floats, bits: int) -> Floats:
    """[..., block] -> [...]: the scale of each block of weights."""
    middle = 1 << (bits - 1)
    if bits == 4:
        return _best_scales(values, middle)
    largest: Floats = np.abs(values).max(axis=-1)
    return largest / np.float32(middle - 1)


def packed_block(integers: Floats, bits: int, block_size: int) -> NDArray[np.uint8]:
    """Integers [N, up to block] of one block -> [N, block*bits/8], as `blocks` packs them."""
    return _packed(np.pad(integers, ((0, 0), (0, block_size - integers.shape[1]))), bits)


def _packed(integers: Floats, bits: int) -> NDArray[np.uint8]:
    unsigned: NDArray[np.uint8] = (integers + np.float32(1 << (bits - 1))).astype(np.uint8)
    if bits == 4:
        unsigned = unsigned[..., 0::2] | (unsigned[..., 1::2] << np.uint8(4))
    return unsigned


def restored_blocks(packed: NDArray[np.uint8], scales: Floats, bits: int, k: int) -> Floats:
    """The float32 matrix [N, K] that `blocks` stored."""
    integers = packed
    if bits == 4:
        integers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1)
    values = (integers.astype(np.float32) - np.float32(1 << (bits - 1))) * scales[..., None]
    return np.asarray(values.reshape(len(packed), -1)[:, :k])


def restored_columns(integers: NDArray[np.int8], scales: Floats) -> Floats:
    """The float32 matrix [N, K] that `columns` stored."""
    return integers.T.astype(np.float32) * scales[:, None]


def _integers(values: Floats, scales: Floats, middle: int) -> Floats:
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    integers = values * inverse[..., None]
    np.rint(integers, out=integers)
    return np.clip(integers, -middle, middle - 1, out=integers)


# The range of a block ends at one of these shares of its largest weight; the few weights beyond it are
# clipped, and all others get finer levels.
_REACHES = (1.0, 0.92, 0.85, 0.78, 0.7)


def _best_scales(values: Floats, middle: int) -> Floats:
    """Per block the scale of least squared error among a few.

    The largest weight by size sits at the level -`middle`, the one without a counterpart (llama.cpp's
    Q4_0), so all 16 levels are used; then its range is cut by `_REACHES`.
    """
    position = np.abs(values).argmax(axis=-1)[..., None]
    full: Floats = np.take_along_axis(values, position, axis=-1)[..., 0] / np.float32(-middle)
    best = full.copy()
    least = np.full(full.shape, np.inf, np.float32)
    for reach in _REACHES:
        scales: Floats = full * np.float32(reach)
        difference = _integers(values, scales, middle)
        difference *= scales[..., None]
        difference -= values
        error = np.einsum("...k,...k->...", difference, difference)
        better = error < least
        least[better], best[better] = error[better], scales[better]
    return best
