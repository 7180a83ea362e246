"""The progress of a run: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .terminal import note, printable

# Seconds between two lines in a log.
_LINE_EVERY = 30.0
# The rate is that of the last so many batches: batches grow at first, and pictures differ.
_BATCHES = 20
_WIDEST_BAR = 24
_NARROWEST_BAR = 8


class Done(Protocol):
    """A picture that is done. `text`: what was written about it, or why it failed; it may be empty."""

    @property
    def path(self) -> str: ...
    @property
    def error(self) -> str | None: ...
    @property
    def text(self) -> str: ...


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


def named(path: str, error: str) -> str:
    """An error with the picture's whole path: it may begin with the file's name alone, or not name it."""
    from ...images.naming import file_name, one_line

    shown, name = one_line(path), file_name(path)
    if error.startswith(f"{shown} "):
        return error
    return shown + error[len(name) :] if error.startswith(f"{name} ") else f"{shown}: {error}"


def pictures_noun(count: int) -> str:
    """ "picture", or "pictures" of a number of them"""
    return "picture" if count == 1 else "pictures"


class RunProgress:
    """Called with each batch of results. `count` says how many pictures there are; it is asked in the background,
    because a collection may take long to be counted.

    On a terminal two lines, erased at the end: a bar with numbers, and below it the latest picture with its text.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._total: int | None = None
        self._done = self._failed = 0
        self._times: deque[tuple[float, int]] = deque(maxlen=_BATCHES)
        self._last_line = 0.0
        self._latest = ""
        self._live: Any = None

    def __enter__(self) -> RunProgress:
        threading.Thread(target=self._find_total, daemon=True).start()
        self._times.append((time.monotonic(), 0))
        self._last_line = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, highlight=False)
            # A terminal that cannot move its cursor gets the lines of a log.
            if not console.is_dumb_terminal:
                self._live = Live(
                    get_renderable=lambda: self._drawn(console.width),
                    console=console,
                    transient=True,
                    refresh_per_second=4,
                )
                self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, results: Sequence[Done]) -> None:
        from ...images.naming import file_name

        self._done += len(results)
        self._failed += sum(one.error is not None for one in results)
        now = time.monotonic()
        self._times.append((now, self._done))
        latest = next((one for one in reversed(results) if one.error is None), results[-1])
        text = f": {printable(latest.text)}" if latest.text else ""
        self._latest = f"{file_name(latest.path)}{text}"
        if self._live is None and now - self._last_line >= _LINE_EVERY:
            self._last_line = now
            first, *more = self._numbers()
            details = f" ({', '.join(more)})" if more else ""
            note(f"{first} pictures{details}; latest: {self._latest}")

    def _drawn(self, width: int) -> Any:
        from rich.text import Text

        # Lines end before the edge: the terminal's own ^C would wrap, and move the cursor off the bar.
        width = max(width - len("^C") - 1, 1)
        numbers = _fitting(self._numbers(), width)
        shown = Text(no_wrap=True, overflow="ellipsis")
        # The bar takes what the numbers leave, and goes first when there is little.
        if self._total and (left := width - len(numbers) - 1) >= _NARROWEST_BAR:
            cells = min(left, _WIDEST_BAR)
            done = min(cells, cells * self._done // self._total)
            shown.append("━" * done, "green").append("─" * (cells - done), "dim").append(" ")
        shown.append(numbers)
        latest = Text(self._latest, "dim")
        latest.truncate(width, overflow="ellipsis")
        return Text("\n", no_wrap=True, overflow="ellipsis").join([shown, latest])

    def _numbers(self) -> list[str]:
        """How far it is: the most important first."""
        (first, before), (last, done) = self._times[0], self._times[-1]
        parts = [f"{self._done:,}" if self._total is None else f"{self._done:,} of {self._total:,}"]
        if self._failed:
            parts.append(f"{self._failed:,} failed")
        if done > before:
            if self._total is not None:
                parts.append(f"{duration((self._total - done) * (last - first) / (done - before))} left")
            parts.append(rate(done - before, last - first))
        return parts

    def _find_total(self) -> None:
        from ...errors import Blip2ChatError

        # The run itself meets the same trouble, and tells.
        with contextlib.suppress(Blip2ChatError):
            self._total = self._count()


def _fitting(parts: Sequence[str], width: int) -> str:
    """As many of the parts as fit side by side, at least the first."""
    text = parts[0]
    for part in parts[1:]:
        if len(text) + len(part) + 2 > width:
            break
        text += f", {part}"
    return text
