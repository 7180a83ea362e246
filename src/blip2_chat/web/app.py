"""The ASGI application: the routes, and the middleware around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from .._version import __version__
from . import page_files
from .disconnect import ClientGoneError
from .errors import ApiError, internal_error, invalid
from .middleware.surround import Surroundings, surround
from .paths import advice
from .prometheus import CONTENT_TYPE
from .routes import captions, chat_completions, ollama, picture, responses, search
from .schemas import ChatRequest
from .schemas_ollama import OllamaChatRequest, OllamaGenerateRequest, OllamaShowRequest
from .schemas_responses import ResponsesRequest
from .service import Service

# Parsed by the routes themselves, so FastAPI does not see them.
_BODIES = (ChatRequest, ResponsesRequest, OllamaChatRequest, OllamaGenerateRequest, OllamaShowRequest)
_SUMMARY = "Chat with pictures through BLIP-2: captions, and the endpoints of OpenAI and Ollama for pictures."


def make_app(service: Service) -> ASGIApp:
    """The ASGI application over `service`, which it closes when it shuts down."""
    app = make_routes(service)
    outside = Surroundings(service.settings, service.places, service.metrics, lambda: service.wait)
    return surround(app, outside, frozenset(app.openapi()["paths"]), frozenset(service.page))


def make_routes(service: Service) -> FastAPI:
    """The routes alone: whoever serves them surrounds them with the middleware."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(service.close)

    # FastAPI's documentation pages load scripts from other sites; use /openapi.json and docs/serve.md
    # instead.
    app = FastAPI(
        title="blip2-chat",
        version=__version__,
        summary=_SUMMARY,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(chat_completions.router(service))
    app.include_router(responses.router(service))
    app.include_router(captions.router(service))
    app.include_router(picture.router(service))
    app.include_router(ollama.router(service))
    if service.finder is not None:
        app.include_router(search.router(service, service.finder))
    app.include_router(page_files.router(service.page))
    _add_state_routes(app, service)
    schema = _openapi(app, service.settings.api_key is not None)
    app.openapi = lambda: schema  # type: ignore[method-assign]
    methods = {path: {one.upper() for one in operations} for path, operations in schema["paths"].items()}
    _add_error_handlers(app, methods)
    return app


def _add_state_routes(app: FastAPI, service: Service) -> None:
    # Some load balancers send HEAD requests.
    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="The process is there")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.head("/ready", include_in_schema=False)
    @app.get(
        "/ready",
        summary="A request sent now would be answered",
        responses={503: {"description": "Shutting down, or all places are taken."}},
    )
    async def ready() -> JSONResponse:
        if not service.alive:
            return JSONResponse({"status": "stopped"}, 503)
        if service.places.full:
            return JSONResponse({"status": "full"}, 503)
        return JSONResponse({"status": "ready"})

    @app.get(
        "/metrics",
        summary="Numbers for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _add_error_handlers(app: FastAPI, methods: dict[str, set[str]]) -> None:
    """`methods`: those of each documented path."""

    @app.exception_handler(ApiError)
    async def told(request: Request, error: ApiError) -> Response:
        return error.response(request.url.path)

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> Response:
        return invalid(error.errors()).response(request.url.path)

    @app.exception_handler(HTTPException)
    async def not_here(request: Request, error: HTTPException) -> Response:
        path, detail = request.url.path, str(error.detail)
        if error.status_code in (404, 405):
            detail = advice(path, request.method, methods)
        return ApiError(error.status_code, detail, headers=error.headers).response(path)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, _: Exception) -> Response:
        return internal_error().response(request.url.path)  # Starlette re-raises it, and `Record` logs it

    @app.exception_handler(ClientGoneError)
    async def gone(_: Request, __: ClientGoneError) -> Response:
        return Response(status_code=499)  # only for the log: the client has left


def _openapi(app: FastAPI, locked: bool) -> dict[str, Any]:
    """FastAPI's document, with the API key if there is one, and without its 422: an invalid request is a 400
    here."""
    schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    for kind in _BODIES:
        body = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"] |= {**body.pop("$defs", {}), kind.__name__: body}
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
    for unused in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(unused, None)
    if locked:
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                operation["security"] = [] if path in ("/health", "/ready") else [{"key": []}]
    return schema
