"""What is printed where: answers on stdout, everything said about them on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import Blip2ChatError
from ...sizes import amounts

# A picture that is read faster than this needs no sign that something happens.
_PATIENCE = 0.5


def say(text: str, end: str = "\n") -> None:
    """A piece of an answer, at once."""
    _put(printable(text), end)


def say_lines(text: str) -> None:
    """A piece of an answer that has been broken into lines, at once."""
    _put("\n".join(printable(line) for line in text.split("\n")), "")


def say_json(entry: dict[str, Any]) -> None:
    """One JSON object on one line."""
    # A pipe on Windows is often not UTF-8; there, escapes keep the line whole and valid.
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    _put(json.dumps(entry, ensure_ascii=not is_utf8), "\n")


def _put(text: str, end: str) -> None:
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Blip2ChatError(f"standard output cannot be written to ({error.strerror})") from error


def note(line: str) -> None:
    """A line about the answers, on stderr. A closed stderr is ignored: on Ctrl-C, `2>&1 | tee` exits before we
    do."""
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """A model can write any byte, and a file have any name: no escape sequence reaches the terminal, and what
    is to be one line is one."""
    return "".join(c if c.isprintable() else " " for c in text)


def complain(text: str) -> None:
    """One line that says what is wrong."""
    note(f"Error: {' '.join(text.split())}")


class ProgressBar:
    """`load`'s and `evaluate`'s progress, as a bar on stderr that vanishes; nothing where stderr is no terminal.

    Called with what is being done, how much of it is done, and how much there is; also from several threads.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[amount]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._doing, total=None, amount="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Removes the bar: to be called before anything else is printed."""
        if self._bar is not None:
            self._bar.stop()

    def note(self, line: str) -> None:
        """`note`, above the bar."""
        if self._bar is None:
            note(line)
        else:
            self._bar.console.print(printable(line), markup=False, highlight=False)

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(
                self._task, description=what, completed=done, total=total or None, amount=amounts(done, total)
            )


@contextmanager
def waiting(what: str) -> Iterator[Any]:
    """Shows a spinner with `what` on a terminal's stderr when it takes longer than a moment.

    Gives a function that ends it: to be called before anything is printed.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    lock = threading.Lock()
    over = threading.Event()
    spinner: list[Any] = []

    def start() -> None:
        from rich.console import Console

        with lock:
            if not over.is_set():
                spinner.append(Console(stderr=True).status(what))
                spinner[0].start()

    def end() -> None:
        with lock:
            if not over.is_set():
                over.set()
                timer.cancel()
                if spinner:
                    spinner[0].stop()

    timer = threading.Timer(_PATIENCE, start)
    timer.daemon = True
    timer.start()
    try:
        yield end
    finally:
        end()
