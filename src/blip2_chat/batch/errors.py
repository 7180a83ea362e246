"""What can end a run."""

from __future__ import annotations

from ..errors import Blip2ChatError


class RunError(Blip2ChatError):
    """A run cannot start or continue: nothing to read, nowhere to write, changed settings. Stored results are
    kept."""


class UnreadableError(RunError):
    """A list, table or shard is missing or damaged. If there are other sources, it becomes a row and they are
    read."""
