"""What a server's models are called: the ids that requests choose by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import Blip2ChatError
from ..model import Model


class SameNameError(Blip2ChatError):
    """Two models of one server that requests could not tell apart."""


def name_of(model: Model) -> str:
    """A hub name; a folder's name, not its path: how the host's disk is laid out is nobody's business."""
    path = Path(model.name).expanduser()
    return path.absolute().name if path.is_dir() else model.name


def ids_of(models: Sequence[Model]) -> list[str]:
    """One for each: the first model of a name goes by the name, which clients know; others by `name:precision`.

    Raises `SameNameError` where that leaves two with one id.
    """
    ids: list[str] = []
    described: list[str] = []
    for model in models:
        name = name_of(model)
        precise = f"{name}:{model.engine.precision}"
        chosen = precise if name in ids else name
        if precise in described or chosen in ids:
            raise SameNameError(
                f"two of the models would be called {precise}: ask for each once, or rename a folder"
            )
        ids.append(chosen)
        described.append(precise)
    return ids
