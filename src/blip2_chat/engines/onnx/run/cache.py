"""The key-value cache: one buffer that the graph writes into, grown in steps, never copied per token."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from ...engine import Floats

# Capacity grows by so many tokens at a time; it takes memory only where tokens are written.
CHUNK = 128


class KVCache:
    """Keys and values of every layer for B rows: `data` [2 * layers, B, heads, capacity, head_dim] float32.

    `data[2 * i]` and `data[2 * i + 1]` are layer i's keys and values. Row b holds `lengths[b]` tokens; what
    comes after them is undefined. The buffer may have spare rows: others join and leave a batch without a copy
    of it.
    """

    def __init__(self, buffer: Floats, lengths: NDArray[np.int32]) -> None:
        self._buffer = buffer
        self.lengths = lengths

    @classmethod
    def empty(cls, layers: int, rows: int, heads: int, head_dim: int, capacity: int) -> KVCache:
        """`rows` rows without tokens, with room for `capacity`."""
        shape = (2 * layers, rows, heads, _rounded(capacity), head_dim)
        return cls(_zeros(shape), np.zeros(rows, np.int32))

    @property
    def data(self) -> Floats:
        return self._buffer[:, : self.rows]

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        return int(self._buffer.shape[3])

    @property
    def nbytes(self) -> int:
        """Bytes of its tokens; capacity beyond them takes no memory."""
        twice_layers, _, heads, _, head_dim = self._buffer.shape
        return int(self.lengths.sum()) * int(twice_layers * heads * head_dim) * self._buffer.itemsize

    def reserve(self, capacity: int) -> bool:
        """Makes room for rows of `capacity` tokens; True when the buffer moved."""
        if capacity <= self.capacity:
            return False
        self._buffer = self._copy(range(self.rows), capacity, self._buffer.shape[1])
        return True

    def take(self, rows: Sequence[int], most: int | None = None) -> KVCache:
        """Copies of some rows, of their first `most` tokens if it is given, with room for a few more."""
        lengths = self.lengths[list(rows)]
        if most is not None:
            lengths = np.minimum(lengths, most)
        copy = self._copy(rows, int(lengths.max(initial=0)) + CHUNK // 4, lengths=lengths)
        return KVCache(copy, lengths)

    def reorder(self, rows: Sequence[int], shared: int) -> bool:
        """Row i becomes the old row `rows[i]`; True when the buffer moved or has another number of rows.

        Of `shared` first tokens the caller knows that they are the same in each row and the one it becomes: beams
        of one prompt differ in a few last tokens, and only those are copied.
        """
        changed = len(rows) != self.rows
        if not changed:
            end = int(self.lengths.max(initial=0))
            self.data[:, :, :, shared:end] = self.data[:, list(rows), :, shared:end]
        elif 4 * len(rows) > self._buffer.shape[1] and all(a < b for a, b in itertools.pairwise(rows)):
            # Rows leave and the others move up, each into the place of one that has left or moved.
            for new, old in enumerate(rows):
                end = int(self.lengths[old])
                if new != old:
                    self._buffer[:, new, :, :end] = self._buffer[:, old, :, :end]
        else:
            self._buffer = self._copy(rows, self.capacity)
        self.lengths = self.lengths[list(rows)]
        return changed

    def append(self, other: KVCache) -> None:
        """Takes over another cache's rows after its own."""
        capacity = max(self.capacity, other.capacity)
        needed = self.rows + other.rows
        if capacity > self.capacity or needed > self._buffer.shape[1]:
            # Twice as many as there are, so that a batch which grows row by row copies each a few times only.
            self._buffer = self._copy(range(self.rows), capacity, max(needed, 2 * self.rows))
        for row in range(other.rows):
            end = int(other.lengths[row])
            self._buffer[:, self.rows + row, :, :end] = other.data[:, row, :, :end]
        self.lengths = np.concatenate([self.lengths, other.lengths])

    def _copy(
        self, rows: Sequence[int], capacity: int, room: int = 0, lengths: NDArray[np.int32] | None = None
    ) -> Floats:
        """A buffer of its own for the tokens of some rows (or their first `lengths` ones), with room for more rows.
        What lies behind is zero."""
        twice_layers, _, heads, _, head_dim = self._buffer.shape
        copy = _zeros((twice_layers, max(room, len(rows)), heads, _rounded(capacity), head_dim))
        ends = self.lengths[list(rows)] if lengths is None else lengths
        for new, (old, end) in enumerate(zip(rows, ends.tolist(), strict=True)):
            copy[:, new, :, :end] = self._buffer[:, old, :, :end]
        return copy


def _rounded(capacity: int) -> int:
    return -(-capacity // CHUNK) * CHUNK


def _zeros(shape: tuple[int, ...]) -> Floats:
    """Zeros whose pages take memory once they are written to. `np.zeros` asks for huge pages, of which each token
    touches all."""
    count = prod(shape)
    # Windows has no such flags; its anonymous maps are private.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    return np.frombuffer(mmap.mmap(-1, max(4 * count, 1), **private), np.float32, count).reshape(shape)
