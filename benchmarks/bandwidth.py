"""How fast this machine's memory can be read by all cores: the limit of writing word after word."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Bytes of the smallest region that is read: weights lie in large ones.
_LARGE = 2**23


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Reader:
    """Reads the memory that this process holds, with all cores. On a virtual machine memory is not the same
    everywhere, nor from one second to the next: so it is the weights' own that is read, between the words."""

    def __init__(self) -> None:
        """To be made once the model is loaded, and used while it stays so."""
        held = list(_held()) or [np.zeros(2**25, np.int64)]
        self._nbytes = sum(one.nbytes for one in held)
        self._parts = [part for one in held for part in np.array_split(one, cores())]
        self._pool = ThreadPoolExecutor(cores())
        self.read()

    def read(self) -> float:
        """Bytes per second of one pass."""
        start = time.perf_counter()
        list(self._pool.map(np.bitwise_or.reduce, self._parts))
        return self._nbytes / (time.perf_counter() - start)


def _held() -> Iterator[NDArray[np.int64]]:
    """The large regions of memory that this process has filled, where the system tells (Linux)."""
    smaps = Path("/proc/self/smaps")
    for region in smaps.read_text().split("VmFlags")[:-1] if smaps.is_file() else ():
        place = re.search(r"^([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ 0 *(\[heap\])?$", region, re.MULTILINE)
        resident = re.search(r"^Rss: +(\d+) kB$", region, re.MULTILINE)
        if place is None or resident is None:
            continue  # a file's
        start, size = int(place[1], 16), int(place[2], 16) - int(place[1], 16)
        # One that is not full is still being written to.
        if size >= _LARGE and int(resident[1]) * 1024 >= 0.95 * size:
            yield np.frombuffer((ctypes.c_char * size).from_address(start), np.int64)


def share_of_limit(nbytes: int, seconds: Sequence[float], rates: Sequence[float]) -> float:
    """Of the speed that memory allowed, what was reached: the median over words that read `nbytes` each, took
    `seconds`, and had the memory measured before and after them (`rates`, one more than words)."""
    limits = [nbytes / max(pair) for pair in itertools.pairwise(rates)]
    return statistics.median(limit / took for limit, took in zip(limits, seconds, strict=True))
