"""The key-value cache: one buffer that the graph writes into, grown in steps, never copied per token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..engine import Floats


def head_size(head_dim: int) -> int:
    """A cached head's width: GroupQueryAttention wants a multiple of 8."""
    return -(-head_dim // 8) * 8


# Capacity grows by so many tokens at a time.
CHUNK = 64


class KVCache:
    """Keys and values of every layer for B rows: `data` [2 * layers, B, heads, capacity, head_dim] float32.

    `data[2 * i]` and `data[2 * i + 1]` are layer i's keys and values. Row b holds `lengths[b]` tokens; what lies
    behind them is undefined.
    """

    def __init__(self, layers: int, rows: int, heads: int, head_dim: int, capacity: int) -> None:
        self.data: Floats = np.zeros((2 * layers, rows, heads, _rounded(capacity), head_dim), np.float32)
        self.lengths: NDArray[np.int32] = np.zeros(rows, np.int32)

    @property
    def rows(self) -> int:
        return int(self.data.shape[1])

    @property
    def capacity(self) -> int:
        return int(self.data.shape[3])

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def reserve(self, capacity: int) -> bool:
        """Makes room for rows of `capacity` tokens; True when the buffer moved."""
        if capacity <= self.capacity:
            return False
        self._move(range(self.rows), capacity)
        return True

    def reorder(self, rows: Sequence[int], shared: int) -> bool:
        """Row i becomes the old row `rows[i]`; True when the buffer moved.

        Of `shared` first tokens the caller knows that they are the same in each row and the one it becomes: beams of
        one prompt differ in a few last tokens, and only those are copied.
        """
        moved = len(rows) != self.rows
        if moved:
            self._move(rows, self.capacity)
        else:
            end = int(self.lengths.max(initial=0))
            self.data[:, :, :, shared:end] = self.data[:, list(rows), :, shared:end]
        self.lengths = self.lengths[list(rows)]
        return moved

    def append(self, other: KVCache) -> None:
        """Takes over another cache's rows after its own."""
        capacity = max(self.capacity, other.capacity)
        self._move([*range(self.rows), *[-1] * other.rows], capacity)
        end = int(other.lengths.max(initial=0))
        self.data[:, -other.rows :, :, :end] = other.data[:, :, :, :end]
        self.lengths = np.concatenate([self.lengths, other.lengths])

    def take(self, rows: Sequence[int]) -> KVCache:
        """Copies of some rows, in a buffer no larger than they need."""
        twice_layers, _, heads, _, head_dim = self.data.shape
        lengths = self.lengths[list(rows)]
        taken = KVCache(twice_layers // 2, len(rows), heads, head_dim, int(lengths.max(initial=0)))
        for new, old in enumerate(rows):
            end = int(lengths[new])
            taken.data[:, new, :, :end] = self.data[:, old, :, :end]
        taken.lengths[:] = lengths
        return taken

    def _move(self, rows: Sequence[int], capacity: int) -> None:
        """A new buffer with the old one's `rows` (-1: left zero)."""
        twice_layers, _, heads, _, head_dim = self.data.shape
        moved = np.zeros((twice_layers, len(rows), heads, _rounded(capacity), head_dim), np.float32)
        for new, old in enumerate(rows):
            if old >= 0:
                end = int(self.lengths[old])
                moved[:, new, :, :end] = self.data[:, old, :, :end]
        self.data = moved


def _rounded(capacity: int) -> int:
    return -(-capacity // CHUNK) * CHUNK
