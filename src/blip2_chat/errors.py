"""The few errors a user can meet. Each message names the thing that is wrong and the way out."""

from __future__ import annotations

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
    """Decoding settings that contradict each other, or a prompt longer than the model's context.

    `setting` names the setting at fault, `value` is what it was, and `rule` what it must be; None where no single
    setting is at fault.
    """

    def __init__(
        self, message: str, *, setting: str | None = None, value: object = None, rule: str | None = None
    ) -> None:
        super().__init__(message)
        self.setting = setting
        self.value = value
        self.rule = rule


class ConversationError(Blip2ChatError):
    """A saved conversation that cannot be read, or a turn that does not exist."""
