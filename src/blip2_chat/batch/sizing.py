"""How many pictures go into a batch: as many as memory holds and as make each picture quicker."""

from __future__ import annotations

import os

from ..checkpoint.embedded import EMBEDDED
from ..system.memory import available_memory

# Of the memory that is free once the model is loaded; the rest is everybody else's.
_SHARE = 0.25
_MOST = 64
_FIRST = 4
# A doubled batch has to be this much quicker per picture to be worth its memory and its latency.
_GAIN = 1.1
# A batch is what a kill costs, and what Ctrl-C waits for.
_LONGEST = 60.0


def threads(name: str, asked: int | None = None) -> int | None:
    """The model's threads in a pipeline, which keeps two graphs at work.

    Those of the embedded model are so small that each is quicker on half of the cores than both on all of them
    (1500 to 1330 captions per minute on 2 cores). None, all cores, for the others: their picture encoder takes
    most of the time.
    """
    if asked is not None or name != EMBEDDED:
        return asked
    return max(1, (os.cpu_count() or 2) // 2)


class BatchSize:
    """Starts small and doubles while that pays; `size` is the one to use next."""

    def __init__(self, bytes_per_picture: int, fixed: int | None = None) -> None:
        fits = int(available_memory() * _SHARE) // max(bytes_per_picture, 1)
        self.most = fixed or max(1, min(fits, _MOST))
        self.size = fixed or min(_FIRST, self.most)
        self._settled = fixed is not None
        self._before: float | None = None  # seconds per picture at half the size
        self._best: float | None = None  # and at this size, the best of two batches
        self._batches = 0

    def measured(self, pictures: int, seconds: float) -> None:
        """Tells how long a batch took. Batches that were not full (the last, or few new pictures) say nothing."""
        if self._settled or pictures != self.size:
            return
        each = seconds / pictures
        self._best = each if self._best is None else min(self._best, each)
        self._batches += 1
        # One batch may have had long captions, or a busy machine.
        if self._batches < 2:
            return
        if self._before is not None and self._best * _GAIN > self._before:
            # Not worth it; the same speed at half the size is the better one.
            self._settle(self.size // 2)
        elif 2 * self.size > self.most or 2 * self.size * self._best > _LONGEST:
            self._settle(self.size)
        else:
            self._before, self._best, self._batches = self._best, None, 0
            self.size *= 2

    def too_large(self, pictures: int) -> None:
        """A batch of so many did not fit in memory."""
        self.most = max(1, pictures // 2)
        self._settle(min(self.size, self.most))

    def _settle(self, size: int) -> None:
        self.size = max(1, size)
        self._settled = True
