"""Returning freed memory to the system, which glibc would keep."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable

# Bodies and pictures come in bursts; once after several of them is enough.
_DELAY = 1.0


def _find_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None


_trim = _find_trim()


class Trimmer:
    """Call `later()` on the event loop after work that used much memory."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def later(self) -> None:
        """Returns freed memory within about a second, in a thread."""
        if _trim is None or self._timer is not None:
            return
        self._timer = asyncio.get_running_loop().call_later(_DELAY, self._start)

    def _start(self) -> None:
        self._timer = None
        if _trim is not None:
            asyncio.get_running_loop().run_in_executor(None, _trim, 0)
