"""The batch size: as many pictures as fit into memory, and as reduce the time per picture."""

from __future__ import annotations

import os

from ..checkpoint.embedded import EMBEDDED
from ..system.memory import available_memory

# Share of the memory that is free once the model is loaded; the rest is left to other programs.
_SHARE = 0.25
_MOST = 64
_FIRST = 4
# A doubled batch has to reduce the time per picture by this factor to be worth its memory and latency.
_GAIN = 1.1
# Seconds per batch: what a kill loses, and how long Ctrl-C has to wait.
_LONGEST = 60.0


def threads(name: str, asked: int | None = None) -> int | None:
    """The number of threads per graph in a pipeline, which runs two graphs in parallel.

    The graphs of the embedded model are so small that they are faster on half of the cores each
    (1500 to 1330 captions per minute on 2 cores). For other models it is None (all cores), because their image
    encoder takes most of the time.
    """
    if asked is not None or name != EMBEDDED:
        return asked
    return max(1, (os.cpu_count() or 2) // 2)


class BatchSize:
    """Starts small and doubles while that is faster; `size` is the one to use next."""

    def __init__(self, bytes_per_picture: int, fixed: int | None = None) -> None:
        fits = int(available_memory() * _SHARE) // max(bytes_per_picture, 1)
        self.most = fixed or max(1, min(fits, _MOST))
        self.size = fixed or min(_FIRST, self.most)
        self._settled = fixed is not None
        self._before: float | None = None  # seconds per picture at half the size
        self._best: float | None = None  # and at this size, the best of two batches
        self._batches = 0

    def measured(self, pictures: int, seconds: float) -> None:
        """Records the time of a batch. Batches that were not full are ignored."""
        if self._settled or pictures != self.size:
            return
        each = seconds / pictures
        self._best = each if self._best is None else min(self._best, each)
        self._batches += 1
        # A single batch may have had long captions, or the machine was busy.
        if self._batches < 2:
            return
        if self._before is not None and self._best * _GAIN > self._before:
            # Not faster: half the size has the same speed and less latency.
            self._settle(self.size // 2)
        elif 2 * self.size > self.most or 2 * self.size * self._best > _LONGEST:
            self._settle(self.size)
        else:
            self._before, self._best, self._batches = self._best, None, 0
            self.size *= 2

    def too_large(self, pictures: int) -> None:
        """Records that a batch of this size did not fit into memory."""
        self.most = max(1, pictures // 2)
        self._settle(min(self.size, self.most))

    def _settle(self, size: int) -> None:
        self.size = max(1, size)
        self._settled = True
