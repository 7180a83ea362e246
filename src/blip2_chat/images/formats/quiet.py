"""Silencing libtiff, which prints messages about damaged files on stderr."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import threading
from collections.abc import Iterator
from typing import Any

_SETTERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")


class _Silence:
    """Counts the users of silence, because libtiff's handlers are global to the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking = 0
        self._before: list[int | None] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._asking == 0:
                self._before = [setter(None) for setter in _setters()]
            self._asking += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._asking -= 1
            if self._asking == 0:
                for setter, handler in zip(_setters(), self._before, strict=True):
                    setter(handler)


_silence = _Silence()


@contextlib.contextmanager
def quiet_libtiff() -> Iterator[None]:
    """Suppresses libtiff's messages; errors are still raised by Pillow.

    Pillow has no setting for this, and redirecting stderr would swallow the output of other threads. So
    libtiff's handlers are replaced, in the library that Pillow has loaded, and restored afterwards. If its
    functions cannot be found (on Windows, where Pillow contains libtiff), its messages are printed.
    """
    with _silence:
        yield


@functools.cache
def _setters() -> list[Any]:
    try:
        # Symbols are looked up in this library and in those that it needs, libtiff among them.
        library = ctypes.CDLL(importlib.import_module("PIL._imaging").__file__)
        setters = [getattr(library, name) for name in _SETTERS]
    except (AttributeError, OSError, TypeError):
        return []
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
    return setters
