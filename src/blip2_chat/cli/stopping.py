"""Ctrl-C in a command that works through a collection."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from .display.terminal import note

# Exit statuses: finished, and some pictures failed; stopped by ctrl-C.
FAILED_PICTURES = 3
STOPPED = 130


class Stoppable(Protocol):
    def stop(self) -> None: ...


@contextmanager
def stopping(task: Stoppable) -> Iterator[None]:
    """Ctrl-C (and a polite kill) ends the task after the batch at work; a second one at once."""

    def stop(number: int, frame: object) -> None:
        signal.signal(number, before[number])
        task.stop()
        note("stopping after the current batch (once more: at once)")

    numbers = [signal.SIGINT, signal.SIGTERM]
    before: dict[int, Any] = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])
