"""The errors that this package raises on purpose.

    Blip2ChatError
      + CheckpointError         path
      + NotEnoughMemoryError    name, precision, engine, needed, available, suggestion
      + MissingExtraError       what, extra
      + PictureError            name, fault
      + GenerationError         setting, value, rule
      |   + PromptTooLongError  what, tokens, room
      + ConversationError       path
      + MetadataError           path
      + PageError               path
      + RunError                parameter

Each is one line that names what is wrong and the way out, and carries the same as fields:

    try:
        model = blip2_chat.load("Salesforce/blip2-opt-6.7b", precision="fp32")
    except blip2_chat.NotEnoughMemoryError as error:
        if error.suggestion is None or error.suggestion.name != error.name:
            raise
        model = blip2_chat.load(error.name, precision=error.suggestion.precision, engine=error.suggestion.engine)

`str(error)` has Python's words: the names of parameters. A front end whose users know these by other names (options
of a command, fields of a request) words the message with `error.worded`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .sizes import gigabytes

# Room for two long paths and a command; what is quoted from files is cut shorter where it is quoted.
_LONGEST = 1500

PictureFault = Literal[
    "missing", "unreadable", "unsupported", "damaged", "too large", "refused", "download", "abandoned"
]


@dataclass(frozen=True)
class Parameter:
    """A parameter that a message names: `Parameter("out")`, or with a value, `Parameter("precision", "int4")`."""

    name: str
    value: object = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value!r}"


class Blip2ChatError(Exception):
    """Base of every error that this package raises on purpose.

    Its text is one line, fit to show as it is. The message is made of pieces: text, and the parameters in it.
    """

    def __init__(self, *message: str | Parameter) -> None:
        self.message = message
        super().__init__(self.worded(str))

    @property
    def parameter(self) -> str | None:
        """The name of the first parameter that the message mentions."""
        return next((piece.name for piece in self.message if isinstance(piece, Parameter)), None)

    def worded(self, spell: Callable[[Parameter], str]) -> str:
        """The message with each parameter as `spell` has it."""
        return "".join(piece if isinstance(piece, str) else spell(piece) for piece in self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by the arguments of `__init__`, which are others here; workers send them back.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[Blip2ChatError], args: tuple[Any, ...], fields: dict[str, Any]) -> Blip2ChatError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class PictureError(Blip2ChatError):
    """A picture cannot be read, is too large, or may not be fetched.

    `name` is the picture's, as far as it has one; `fault` is the kind of fault:

        missing      there is no such file, or nothing was given
        unreadable   the file, stream or URL is there and cannot be read
        unsupported  it is no picture, or of a kind that is not decoded
        damaged      it is broken or cut short
        too large    it exceeds one of `PictureLimits`
        refused      paths, URLs or this address are not allowed
        download     it could not be downloaded
        abandoned    decoding was stopped, because the picture is no longer wanted
    """

    def __init__(
        self, *message: str | Parameter, name: str | None = None, fault: PictureFault | None = None
    ) -> None:
        super().__init__(*message)
        self.name = name
        self.fault = fault


class CheckpointError(Blip2ChatError):
    """A model name or folder is not a complete, safe BLIP-2 checkpoint. `path` is the file or folder at fault.

    Its text is one line of bounded length without control characters, whatever names and values it quotes from
    files: it is shown on terminals and written to logs as it is.
    """

    def __init__(self, *message: str | Parameter, path: str | Path | None = None) -> None:
        super().__init__(*message)
        self.path = None if path is None else Path(path)

    def worded(self, spell: Callable[[Parameter], str]) -> str:
        line = "".join(c if c.isprintable() else "?" for c in " ".join(super().worded(spell).splitlines()))
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
        return line


@dataclass(frozen=True)
class Suggestion:
    """A model that would fit: `name` at `precision` with `engine`, in about `needed` bytes."""

    name: str
    precision: str
    engine: str
    needed: int


class NotEnoughMemoryError(Blip2ChatError):
    """The model would not fit in this machine's memory (or its GPU's) at the precision asked for.

    `needed` and `available` are bytes. `suggestion` is what would fit, of the same name where that is another
    precision or engine; None where not even an official checkpoint fits. `force=True` skips the check.
    """

    def __init__(
        self,
        name: str,
        precision: str,
        engine: str,
        needed: int,
        available: int,
        suggestion: Suggestion | None = None,
    ) -> None:
        self.name = name
        self.precision = precision
        self.engine = engine
        self.needed = needed
        self.available = available
        self.suggestion = suggestion
        super().__init__(
            f"{self.problem}; ", *self._advice(), "; ", Parameter("force", True), " loads it regardless"
        )

    @property
    def problem(self) -> str:
        """What does not fit, with the numbers, and without the advice."""
        return (
            f"{self.name} at {self.precision} with the {self.engine} engine needs about {gigabytes(self.needed)} of "
            f"memory, and {gigabytes(self.available)} is available"
        )

    def _advice(self) -> list[str | Parameter]:
        instead = self.suggestion
        if instead is None:
            return ["no precision of it fits, nor any official checkpoint; the embedded model does"]
        chosen: list[str | Parameter] = [Parameter("precision", instead.precision)]
        if instead.engine != self.engine:
            chosen += [" and ", Parameter("engine", instead.engine)]
        size = gigabytes(instead.needed)
        if instead.name == self.name:
            return ["with ", *chosen, f" it needs {size} and fits"]
        return [f"no precision of it fits, but {instead.name} with ", *chosen, f" needs {size} and does"]


class MissingExtraError(Blip2ChatError):
    """An optional part is not installed. `what` needs it, `extra` is its name, and the message has the `pip install`
    that brings it."""

    def __init__(self, what: str, extra: str) -> None:
        from .installation import install_command  # reads files, and is wanted only when this is raised

        super().__init__(f"{what} needs the [{extra}] extra: {install_command(extra)}")
        self.what = what
        self.extra = extra


class GenerationError(Blip2ChatError):
    """A decoding setting out of bounds or in conflict with another, or a question or prompt that cannot be used.

    Of a setting, `setting` is its name, `value` what it was, and `rule` what would be right, in which other settings
    stand in braces ("give at most {max_new_tokens}"): they make the message. All three are None otherwise.
    """

    def __init__(
        self,
        *message: str | Parameter,
        setting: str | None = None,
        value: object = None,
        rule: str | None = None,
    ) -> None:
        if setting is not None and rule is not None:
            pieces = re.split(r"\{(\w+)\}", rule)  # text, name, text ...
            others = [Parameter(piece) if place % 2 else piece for place, piece in enumerate(pieces)]
            message = (Parameter(setting), f" is {value!r}; ", *others)
        super().__init__(*message)
        self.setting = setting
        self.value = value
        self.rule = rule


class PromptTooLongError(GenerationError):
    """A question or prompt of `tokens` tokens where `room` fit. `what` it is: "the question alone"."""

    def __init__(self, what: str, tokens: int, room: int) -> None:
        super().__init__(
            f"{what} is {tokens} tokens, and {max(room, 0)} fit beside the picture and the answer: ",
            "shorten it, or lower ",
            Parameter("max_new_tokens"),
        )
        self.what = what
        self.tokens = tokens
        self.room = max(room, 0)


class ConversationError(Blip2ChatError):
    """A saved conversation cannot be read or written, or a turn does not exist. `path` is the file at fault."""

    def __init__(self, *message: str | Parameter, path: str | Path | None = None) -> None:
        super().__init__(*message)
        self.path = None if path is None else Path(path)


class MetadataError(Blip2ChatError):
    """A picture's metadata cannot be read or written: the file stays as it is. `path` is the file at fault."""

    def __init__(self, *message: str | Parameter, path: str | Path | None = None) -> None:
        super().__init__(*message)
        self.path = None if path is None else Path(path)


class PageError(Blip2ChatError):
    """A web page cannot be read or written. `path` is the file at fault."""

    def __init__(self, *message: str | Parameter, path: str | Path | None = None) -> None:
        super().__init__(*message)
        self.path = None if path is None else Path(path)


class RunError(Blip2ChatError):
    """A run over many pictures cannot start or go on: nothing to read, nowhere to write, settings that changed.

    `parameter` names the parameter at fault or to change, where there is one. What was done before stays done.
    """
