"""How far a run is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .terminal import note

if TYPE_CHECKING:
    from ..batch.result import Result

# Seconds between two lines in a log.
_LINE_EVERY = 30.0
# The rate is that of the last so many batches: batches grow at first, and pictures differ.
_BATCHES = 20


def rate(count: int, seconds: float) -> str:
    """ "52 per minute" """
    each = 60 * count / seconds if seconds > 0 else 0.0
    return f"{each:,.0f} per minute" if each >= 10 else f"{each:.1f} per minute"


def duration(seconds: float) -> str:
    """ "2 h 05 min", "3 min 20 s", "4 s" """
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours >= 48:
        return f"{hours // 24} days {hours % 24} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


class RunProgress:
    """Called with each batch of results. `count` says how many pictures there are; it is asked in the background,
    because a collection may take long to be counted."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._total: int | None = None
        self._done = self._failed = 0
        self._times: deque[tuple[float, int]] = deque(maxlen=_BATCHES)
        self._last_line = 0.0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> RunProgress:
        threading.Thread(target=self._find_total, daemon=True).start()
        self._times.append((time.monotonic(), 0))
        self._last_line = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                BarColumn(bar_width=24),
                TextColumn("{task.fields[numbers]}"),
                TextColumn("[dim]{task.fields[latest]}", table_column=_one_line()),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=None, numbers="starting", latest="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, results: Sequence[Result]) -> None:
        self._done += len(results)
        self._failed += sum(one.error is not None for one in results)
        now = time.monotonic()
        self._times.append((now, self._done))
        latest = next((one for one in reversed(results) if one.error is None), results[-1])
        if self._bar is not None:
            from rich.markup import escape

            self._bar.update(
                self._task,
                completed=self._done,
                total=self._total,
                numbers=self._numbers(),
                latest=escape(_printable(latest.text)),
            )
        elif now - self._last_line >= _LINE_EVERY:
            self._last_line = now
            note(f"{self._numbers()}: {_printable(latest.text)}")

    def _numbers(self) -> str:
        (first, before), (last, done) = self._times[0], self._times[-1]
        parts = [f"{self._done:,}" if self._total is None else f"{self._done:,} of {self._total:,}"]
        if done > before:
            parts.append(rate(done - before, last - first))
            if self._total is not None:
                parts.append(f"{duration((self._total - done) * (last - first) / (done - before))} left")
        if self._failed:
            parts.append(f"{self._failed:,} failed")
        return ", ".join(parts)

    def _find_total(self) -> None:
        from ..errors import Blip2ChatError

        # The run itself meets the same trouble, and tells.
        with contextlib.suppress(Blip2ChatError):
            self._total = self._count()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _one_line() -> Any:
    from rich.table import Column

    return Column(no_wrap=True, overflow="ellipsis", ratio=1)
