"""The few errors a user can meet. Each message names the thing that is wrong and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# Room for two long paths and a command; what is quoted from files is cut shorter where it is quoted.
_LONGEST = 1500


class Blip2ChatError(Exception):
    """Base of every error this package raises on purpose; its text is one line, fit to show as it is."""


class PictureError(Blip2ChatError):
    """A picture cannot be read, is too large, or may not be fetched."""


class CheckpointError(Blip2ChatError):
    """A model name or folder is not a complete, safe BLIP-2 checkpoint.

    Its text is one line of bounded length without control characters, whatever names and values it quotes from
    files: it is shown on terminals and written to logs as it is.
    """

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else "?" for c in " ".join(message.splitlines()))
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
        super().__init__(line)


class NotEnoughMemoryError(Blip2ChatError):
    """The model would not fit in this machine's memory at the precision asked for."""


class MissingExtraError(Blip2ChatError):
    """An optional part is not installed; the message carries the `pip install` that brings it."""

    def __init__(self, what: str, extra: str) -> None:
        from .installation import install_command  # reads files, and is wanted only when this is raised

        super().__init__(f"{what} needs the [{extra}] extra: {install_command(extra)}")
        self.extra = extra


class GenerationError(Blip2ChatError):
    """A decoding setting out of bounds or in conflict with another, or a question or prompt that cannot be used.

    Of a setting, `setting` is its name, `value` what it was, and `rule` what would be right, in which other settings
    stand in braces ("give at most {max_new_tokens}"); all three are None otherwise.
    """

    def __init__(
        self, message: str = "", *, setting: str | None = None, value: object = None, rule: str | None = None
    ) -> None:
        self.setting = setting
        self.value = value
        self.rule = rule
        self._message = message
        super().__init__(self.worded(str))

    def worded(self, name: Callable[[str], str]) -> str:
        """The message with `name(setting)` for each setting: a command line has other names for them than Python."""
        if self.setting is None or self.rule is None:
            return self._message
        rule = re.sub(r"\{(\w+)\}", lambda found: name(found[1]), self.rule)
        return f"{name(self.setting)} is {self.value!r}; {rule}"


class PromptTooLongError(GenerationError):
    """A question or prompt of `tokens` tokens where `room` fit. `what` it is: "the question alone"."""

    def __init__(self, what: str, tokens: int, room: int) -> None:
        self.what = what
        self.tokens = tokens
        self.room = max(room, 0)
        super().__init__()

    def worded(self, name: Callable[[str], str]) -> str:
        return (
            f"{self.what} is {self.tokens} tokens, and {self.room} fit beside the picture and the answer: "
            f"shorten it, or lower {name('max_new_tokens')}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.tokens, self.room)


class ConversationError(Blip2ChatError):
    """A saved conversation that cannot be read, or a turn that does not exist."""
