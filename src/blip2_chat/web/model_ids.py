"""Ids of the models of a server, by which requests choose one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import Blip2ChatError
from ..model import Model

# After an id: the model captions every picture, whatever a request says. For tools whose prompts are long, fixed
# instructions, which BLIP-2 does not understand; they all let one choose the model.
CAPTION = ":caption"


class SameNameError(Blip2ChatError):
    """Two models of a server would have the same id."""


def name_of(model: Model) -> str:
    """A name on the hub; for a folder its name, not its path, so that clients do not learn the paths of the
    host. With an adapter, both names and a + between them."""
    if Path(model.name).expanduser().is_dir():
        return _last(model.name)
    return "+".join(map(_last, model.name.split("+")))  # a model, and its adapter


def _last(name: str) -> str:
    path = Path(name).expanduser()
    return path.absolute().name if path.is_dir() else name


def ids_of(models: Sequence[Model]) -> list[str]:
    """An id for each model: the name for the first model of that name, and `name:precision` for others.

    Raises `SameNameError` if two would have the same id.
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
