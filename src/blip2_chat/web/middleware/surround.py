"""The middleware around an application, in its order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp

from ..paths import WELL_KNOWN
from ..prometheus import Metrics
from ..settings import Settings
from .access_log import Record
from .admission import Intake, Places
from .auth import Guard
from .cors import Cors


@dataclass(frozen=True)
class Surroundings:
    """What the middleware keeps. wait: the seconds after which a refused client may retry."""

    settings: Settings
    places: Places
    metrics: Metrics
    wait: Callable[[], float]


def surround(app: ASGIApp, outside: Surroundings, paths: frozenset[str], page: frozenset[str]) -> ASGIApp:
    """`app` with access log, authentication and admission around it. `paths`: those of its API; `page`: those of the
    page's files, which need no key."""
    settings = outside.settings
    known = paths | page | {"/openapi.json"}

    def route(path: str) -> str:
        if path.startswith("/v1/models/"):
            return "/v1/models/{model}"
        return path if path in known else WELL_KNOWN.get(path, "other")

    intake = Intake(app, settings, outside.places, outside.wait)
    guarded: ASGIApp = Guard(intake, settings, page)
    if settings.allowed_origins:
        guarded = Cors(guarded, settings.allowed_origins)
    return Record(guarded, outside.metrics, route)
