"""Which variants of a test the fast run leaves to the slow one."""

from __future__ import annotations

from typing import Any

import pytest

from blip2_chat.checkpoint.config import FAMILIES

# In the fast run: one language model that reads the picture's vectors before its text, and one with an encoder,
# without and with an instruction for the Q-Former.
_FAST = ("opt", "instruct-t5")


def first_of(*variants: Any) -> list[Any]:
    """Parameters of a test, all but the first for the slow run only."""
    first, *others = variants
    return [first, *(_slow(one) for one in others)]


def each_family() -> list[str | Any]:
    """All families as parameters, two of them in the fast run."""
    return [family if family in _FAST else _slow(family) for family in FAMILIES]


def _slow(variant: Any) -> Any:
    values = variant if isinstance(variant, tuple) else (variant,)
    return pytest.param(*values, marks=pytest.mark.slow)
