"""How a long task reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (bytes, tensors or pictures)."""


def silent(what: str, done: int, total: int) -> None:
    """Ignores progress: the default."""
