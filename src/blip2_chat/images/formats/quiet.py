"""libtiff prints about damaged files on the process' stderr by itself; not while it decodes for us."""

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
    """Off from the first that asks for silence to the last: libtiff's handlers are the whole process'."""

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
    """No line of libtiff's reaches stderr meanwhile; what is wrong comes as Pillow's exception.

    Pillow has no setting for it, and turning stderr itself elsewhere would swallow what other threads write. So
    libtiff's own handlers are set, in the library that Pillow has loaded, and put back afterwards. Where its
    functions cannot be found from outside (Windows, where Pillow contains it), its lines are printed as before.
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
