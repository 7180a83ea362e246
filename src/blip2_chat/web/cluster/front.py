"""The front as a server: the middleware of `blip2-chat serve`, once, around the relay to the replicas."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import page_files
from ..middleware.admission import Places
from ..middleware.surround import Surroundings, surround
from ..prometheus import CONTENT_TYPE, Metrics
from ..server import serving
from ..settings import Settings
from .deployment import Deployment
from .metrics import merged
from .relay import Relay


def make_front(deployment: Deployment, settings: Settings) -> uvicorn.Server:
    """A server that is not running yet, in front of the replicas. `settings`: as for one server; slots are each
    replica's."""
    return serving(make_front_app(deployment, settings), settings_of_all(deployment, settings))


def settings_of_all(deployment: Deployment, settings: Settings) -> Settings:
    """The limits of the front: the slots of all replicas together."""
    return replace(settings, slots=deployment.replicas * settings.slots)


def make_front_app(deployment: Deployment, settings: Settings) -> ASGIApp:
    """The ASGI application of the front."""
    settings = settings_of_all(deployment, settings)
    places = Places(settings)
    metrics = Metrics({}, lambda: places.requests)
    relay = Relay(deployment, settings.time_limit)

    def wait() -> float:
        return relay.pace * max(1, math.ceil(places.requests / settings.slots))

    about = deployment.about
    page = page_files.load(samples=about.is_embedded)
    local = FastAPI(openapi_url=None, redirect_slashes=False, routes=_state(deployment, places, metrics))
    local.include_router(page_files.router(page))
    here = {"/health", "/ready", "/metrics", *page}

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        is_here = scope["type"] != "http" or (scope["path"] in here and scope["method"] in ("GET", "HEAD"))
        await (local if is_here else relay)(scope, receive, send)

    outside = Surroundings(settings, places, metrics, wait)
    return surround(dispatch, outside, about.paths, frozenset(page))


def _state(deployment: Deployment, places: Places, metrics: Metrics) -> list[BaseRoute]:
    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        if places.full:
            return JSONResponse({"status": "full"}, 503)
        running = await anyio.to_thread.run_sync(deployment.running)
        told: dict[str, Any] = {"status": "ready" if running else "stopped", "replicas": running}
        return JSONResponse(told, 200 if running else 503)

    async def numbers(_: Request) -> Response:
        text = merged(metrics.text(), await deployment.metrics())
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    return [Route("/health", health), Route("/ready", ready), Route("/metrics", numbers)]
