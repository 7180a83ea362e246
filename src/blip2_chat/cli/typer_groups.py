"""What all commands share: option groups, and errors as one line."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from ..errors import Blip2ChatError
from .display.terminal import complain, note
from .help import GroupedCommand
from .wording import worded

DEBUG = "BLIP2_CHAT_DEBUG"
INTERRUPTED = 130  # what a shell expects of a program that ctrl-C ended


def add(app: typer.Typer, function: Callable[..., None]) -> None:
    """Makes `function` a command of `app`, named after it."""
    app.command(function.__name__, cls=GroupedCommand)(_spread(_told(function)))


def _told(function: Callable[..., None]) -> Callable[..., None]:
    """Turns what goes wrong into one line and an exit status."""

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        _silence_libraries()
        try:
            function(**arguments)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise  # typer's own business; of a broken pipe it says nothing
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Blip2ChatError as error:
            if _debugging():
                raise
            complain(worded(error))
            raise typer.Exit(1) from None
        except Exception as error:
            if _debugging():
                raise
            what = " ".join(str(error).split())
            complain(
                f"{type(error).__name__}: {what} (unexpected: please report it with the output of "
                f"`blip2-chat doctor`; {DEBUG}=1 shows the traceback)"
            )
            raise typer.Exit(1) from None

    return run


def _debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def _silence_libraries() -> None:
    """Keeps the progress bars and advice of transformers and the hub's client off the user's screen; their
    errors are exceptions, which are shown. Environment variables, because the libraries are not imported yet."""
    if _debugging():
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Without a handler, Python prints what libraries log as warnings.
    logging.getLogger().addHandler(logging.NullHandler())
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module=r"blip2_chat\b")  # ours are for the user
        warnings.showwarning = _tell_warning


def _tell_warning(message: Warning | str, *_: object, **__: object) -> None:
    note(f"Warning: {message}")


def _spread(function: Callable[..., None]) -> Callable[..., None]:
    """Replaces each parameter whose type is a dataclass (an option group, options.py) by the dataclass's
    fields, so that typer sees plain options and the function gets them grouped. In `--help` they stand under the
    dataclass's `heading`."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if not dataclasses.is_dataclass(hint):
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = hint
        types = get_type_hints(hint, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=_under(getattr(hint, "heading", None), types[field.name]),
            )
            for field in dataclasses.fields(hint)
        ]

    def run(**arguments: Any) -> None:
        for name, group in groups.items():
            fields = [field.name for field in dataclasses.fields(group)]
            arguments[name] = group(**{field: arguments.pop(field) for field in fields})
        function(**arguments)

    functools.update_wrapper(run, function)
    del run.__dict__["__wrapped__"]  # it would show typer the signature before this one
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _under(heading: str | None, annotation: Any) -> Any:
    """An option's annotation with a heading for `--help`, unless it has one."""
    if heading is None:
        return annotation
    described = []
    for detail in annotation.__metadata__:
        if getattr(detail, "rich_help_panel", heading) is None:
            detail = copy.copy(detail)
            detail.rich_help_panel = heading
        described.append(detail)
    return Annotated[(annotation.__origin__, *described)]
