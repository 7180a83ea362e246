"""Work that is killed at any moment, and what it had reported by then."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until


class Killed:
    """Starts processes that add a line to the file `told` for each thing that they have done, and kills them."""

    def __init__(self, told: Path, start: Callable[[], Any], seed: int = 1) -> None:
        self.told = told
        self._start = start
        self._draw = random.Random(seed)
        self.in_the_middle = 0  # kills that came after something had been reported
        told.touch()

    @property
    def reported(self) -> list[str]:
        return self.told.read_text(encoding="utf-8").splitlines()

    def once(self, early: float) -> None:
        """A start and a kill: with the probability `early` at any moment of the start, and otherwise once it has
        reported something: in a batch, a commit, a report."""
        before = len(self.reported)
        process = self._start()
        if self._draw.random() < early:
            time.sleep(self._draw.uniform(0, 0.3))
        else:
            assert wait_until(lambda: len(self.reported) > before or not process.is_alive(), 240), (
                "it neither reports anything nor ends"
            )
            time.sleep(self._draw.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode <= 0, "it ended by itself, with an error"
        self.in_the_middle += len(self.reported) > before

    def require_nothing_twice(self) -> None:
        assert max(Counter(self.reported).values()) == 1, "done twice"
