"""How fast this machine's memory can be read by all cores: the limit of writing word after word."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Reader:
    """Reads arrays far larger than any cache with all cores. On a virtual machine what comes of it changes from one
    second to the next, with what its neighbours do: so it is measured between the words, not once before."""

    def __init__(self, megabytes: int = 256) -> None:
        count = cores()
        self._parts = [np.ones(megabytes * 2**20 // 8 // count, np.float64) for _ in range(count)]
        self._pool = ThreadPoolExecutor(count)
        self.read()

    def read(self) -> float:
        """Bytes per second of one pass."""
        start = time.perf_counter()
        list(self._pool.map(np.max, self._parts))
        return sum(part.nbytes for part in self._parts) / (time.perf_counter() - start)


def share_of_limit(nbytes: int, seconds: Sequence[float], rates: Sequence[float]) -> float:
    """Of the speed that memory allowed, what was reached: the median over words that read `nbytes` each, took
    `seconds`, and had the memory measured before and after them (`rates`, one more than words)."""
    limits = [nbytes / max(pair) for pair in itertools.pairwise(rates)]
    return statistics.median(limit / took for limit, took in zip(limits, seconds, strict=True))
