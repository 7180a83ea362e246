"""How fast this machine's memory can be read by all cores: the limit on generating one token after another."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# Far larger than any cache, so that a pass reads memory; a few hundredths of a second on a desktop.
_BUFFER_BYTES = 2**29


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Reader:
    """Reads a buffer of its own with all cores and says how fast that went.

    It never touches memory that belongs to the model's runtime: a runtime may free, move or protect its memory
    at any time, from any thread.
    """

    def __init__(self, nbytes: int = _BUFFER_BYTES) -> None:
        # Written once: pages that were never written are all the same page of zeros, and cached.
        buffer = np.full(nbytes // 8, 1, np.int64)
        self._nbytes = buffer.nbytes
        self._parts = np.array_split(buffer, cores())
        self._pool = ThreadPoolExecutor(cores())
        self.read()

    def read(self) -> float:
        """Bytes per second of one pass over the buffer."""
        start = time.perf_counter()
        list(self._pool.map(np.bitwise_or.reduce, self._parts))
        return self._nbytes / (time.perf_counter() - start)


def share_of_limit(nbytes: int, seconds: Sequence[float], rates: Sequence[float]) -> float:
    """What share of the speed that memory allows was reached: the median over words that read `nbytes` each, took
    `seconds`, and had the memory's speed measured before and after them (`rates`, one more than words)."""
    limits = [nbytes / max(pair) for pair in itertools.pairwise(rates)]
    return statistics.median(limit / took for limit, took in zip(limits, seconds, strict=True))
