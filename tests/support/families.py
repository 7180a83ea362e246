"""The families that tests are run for."""

from __future__ import annotations

from typing import Any

import pytest

from blip2_chat.checkpoint.config import FAMILIES

# In the fast run: one language model that reads the picture's vectors before its text, and one with an encoder,
# without and with an instruction for the Q-Former.
_FAST = ("opt", "instruct-t5")


def each_family(*others: str) -> list[Any]:
    """All families, as parameters; in the fast run only two of them, and `others`."""
    slow = pytest.mark.slow
    return [
        family if family in (*_FAST, *others) else pytest.param(family, marks=slow) for family in FAMILIES
    ]
