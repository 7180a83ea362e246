"""What can end a run."""

from __future__ import annotations

from ..errors import RunError

__all__ = ["RunError", "UnreadableError"]


class UnreadableError(RunError):
    """A list, table or shard is not there or damaged. Among several sources it is a row, and the others are read."""
