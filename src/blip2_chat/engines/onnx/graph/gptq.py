"""Rounding that compensates its own errors: GPTQ (Frantar et al. 2022, arXiv:2210.17323).

Columns are rounded one after another. After each, the columns that are still exact move a little, so that the
layer's outputs for the inputs it really gets change least: of all changes of the later columns, by the one that
solves the least squares problem `min |X (W - Q)|^2 + damping |W - Q|^2`.

The paper inverts the Hessian X^T X, [K, K], which for fc2 of opt-2.7b is 10240 x 10240 per layer. A few pictures
and prompts give far fewer inputs T than that has rows, so the same solution is found in [T, T] instead (Woodbury's
identity: (X^T X + d)^-1 X^T = X^T (X X^T + d)^-1): the same integers, in hundredths of the time and memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...engine import Floats
from . import quantise

# As a share of the mean square of the inputs, as in the paper: keeps weights in directions that no sample
# has.
DAMPING = 0.01
# Columns that are rounded before the rest of their block is moved, to move it by one product of matrices.
_LAZY = 32


def blocks(
    weight: Floats, inputs: Floats, bits: int, block_size: int, damping: float = DAMPING
) -> tuple[NDArray[np.uint8], Floats]:
    """`quantise.blocks` of `weight` [N, K], rounded for the layer's `inputs` [T, K]."""
    n, k = weight.shape
    x = _fewer_rows(inputs.astype(np.float64))
    damp = damping * float(np.square(x).sum()) / k
    if not damp > 0:
        return quantise.blocks(weight, bits, block_size)
    middle = 1 << (bits - 1)
    inner = x @ x.T + damp * np.eye(len(x))
    lost = np.zeros((len(x), n), np.float32)  # of the outputs, by the columns that are rounded
    packed, scales = [], []
    for start in range(0, k, block_size):
        part = x[:, start : start + block_size]
        solved = np.linalg.solve(inner, part)
        exact = np.ascontiguousarray(weight[:, start : start + block_size].T)
        moved = exact + solved.T.astype(np.float32) @ lost
        inverse = (np.eye(part.shape[1]) - part.T @ solved) / damp
        upper = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
        scale = quantise.block_scales(moved.T, bits)
        integers = _rounded(moved, upper, scale, middle)
        lost += part.astype(np.float32) @ (exact - integers * scale)
        inner -= part @ part.T
        packed.append(quantise.packed_block(integers.T, bits, block_size))
        scales.append(scale)
    return np.stack(packed, axis=1), np.stack(scales, axis=1)


def _rounded(columns: Floats, upper: Floats, scale: Floats, middle: int) -> Floats:
    """Integers [B, N] of `columns` [B, N], which are moved on the way. `upper`: U of the Cholesky factorisation U^T U
    of the inverse Hessian of these columns and all later ones, as far as it is theirs."""
    size = len(columns)
    integers = np.empty_like(columns)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    for start in range(0, size, _LAZY):
        stop = min(start + _LAZY, size)
        errors = np.empty((stop - start, columns.shape[1]), np.float32)
        for at in range(start, stop):
            row = columns[at]
            np.clip(np.rint(row * inverse), -middle, middle - 1, out=integers[at])
            errors[at - start] = (row - integers[at] * scale) / upper[at, at]
            columns[at + 1 : stop] -= np.outer(upper[at, at + 1 : stop], errors[at - start])
        columns[stop:] -= upper[start:stop, stop:].T @ errors
    return integers


def _fewer_rows(inputs: np.ndarray) -> np.ndarray:
    """At most as many rows as columns, with the same products between columns."""
    if len(inputs) <= inputs.shape[1]:
        return inputs
    return np.asarray(np.linalg.qr(inputs, mode="r"))
