"""What can end a run."""

from __future__ import annotations

from ..errors import RunError

__all__ = ["RunError", "UnreadableError"]


class UnreadableError(RunError):
    """A list, table or shard is missing or damaged. If there are other sources, it becomes a row and they are
    read."""
