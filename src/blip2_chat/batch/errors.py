"""What can end a run."""

from __future__ import annotations

from ..errors import Blip2ChatError


class RunError(Blip2ChatError):
    """A run cannot start or go on: nothing to read, nowhere to write, settings that changed. What was done
    before stays done."""


class UnreadableError(RunError):
    """A list, table or shard is not there or damaged. Among several sources it is a row, and the others are read."""
