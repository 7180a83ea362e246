"""A server that is ready to run, whatever is behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn


@dataclass(frozen=True)
class Started:
    """models: what runs, as it is shown. ids: by which requests name them. notes: what else the user is told.
    close: ends what the server needs, after it has stopped."""

    server: uvicorn.Server
    models: tuple[str, ...]
    ids: tuple[str, ...]
    is_embedded: bool
    notes: tuple[str, ...]
    close: Callable[[], None]
