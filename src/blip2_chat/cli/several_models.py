"""`--also NAME[+ADAPTER][:PRECISION]`: further models in the same process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Blip2ChatError, NotEnoughMemoryError
from ..sizes import gigabytes
from .options import ModelOptions

if TYPE_CHECKING:
    from ..model import Model


class AlsoError(Blip2ChatError):
    """An `--also` without a model, with one that is loaded already, or with one that does not fit into memory
    with the others."""


def read(text: str) -> tuple[str, str | None, str]:
    """NAME[+ADAPTER][:PRECISION] -> name, adapter and precision; without a precision, "auto".

    A colon or a plus sign can be a part of the name: folders may have them, and a path on Windows begins with a
    drive's.
    """
    from ..loading import PRECISIONS

    name, colon, precision = text.rpartition(":")
    in_a_path = "/" in precision or "\\" in precision
    if not colon or in_a_path or Path(text).expanduser().is_dir():
        name, precision = text, "auto"
    if not name.strip():
        raise AlsoError(f"--also {text!r} names no model; it is NAME, NAME:PRECISION or NAME+ADAPTER")
    if precision not in PRECISIONS:
        raise AlsoError(f"--also {text}: precision {precision!r} is none of {', '.join(PRECISIONS)}")
    adapter = None
    if "+" in name and not Path(name).expanduser().is_dir():
        name, _, adapter = name.partition("+")
        if not name.strip() or not adapter.strip():
            raise AlsoError(f"--also {text!r} lacks a name beside the +; it is NAME+ADAPTER")
    return name, adapter, precision


def _named(name: str, adapter: str | None) -> str:
    return name if adapter is None else f"{name}+{adapter}"


def beside(first: ModelOptions, also: Sequence[str]) -> list[ModelOptions]:
    """What `also` asks for, each with a name and a precision of its own and else as the first. `AlsoError`."""
    asked = [first]
    for text in also:
        name, adapter, precision = read(text)
        others = [(_named(one.model, one.adapter), one.precision) for one in asked]
        _require_another(_named(name, adapter), precision, others)
        # A branch or commit is one repository's, and a tokenizer one family's.
        is_same = name == first.model
        asked.append(
            replace(
                first,
                model=name,
                adapter=adapter,
                precision=precision,
                revision=first.revision if is_same else None,
                processor=first.processor if is_same else None,
            )
        )
    return asked[1:]


def load_all(first: ModelOptions, others: Sequence[ModelOptions]) -> list[Model]:
    """The models, one after another: whether one fits is asked of the memory that those before it left."""
    models = [first.load()]
    for options in others:
        # What was "auto" is known by now; loading takes minutes.
        loaded = [(model.name, model.engine.precision) for model in models]
        _require_another(_named(options.model, options.adapter), options.precision, loaded)
        try:
            models.append(options.load())
        except NotEnoughMemoryError as error:
            beside = " and ".join(f"{name} at {precision}" for name, precision in loaded)
            raise AlsoError(f"beside {beside}: {error.problem}; {_advice(error)}") from None
    return models


def _require_another(name: str, precision: str, others: Sequence[tuple[str, str]]) -> None:
    if (name, precision) in others:
        at = "" if precision == "auto" else f" at {precision}"
        raise AlsoError(f"{name}{at} is asked for twice; --also {name}:PRECISION has it at another precision")


def _advice(error: NotEnoughMemoryError) -> str:
    """What would fit into memory with the loaded models, as an `--also` option."""
    instead = error.suggestion
    if instead is None or instead.engine != error.engine:  # one engine is for all of them
        return "no precision of it fits, nor any official checkpoint"
    also, size = f"--also {instead.name}:{instead.precision}", gigabytes(instead.needed)
    if instead.name == error.name:
        return f"{also} needs {size} and fits"
    return f"no precision of it fits, but {also} needs {size} and does"
