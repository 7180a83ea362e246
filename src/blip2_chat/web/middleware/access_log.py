"""The outermost middleware: security headers, the access log, metrics, and unexpected errors.

A log line contains method, route, status, time and the id that the response has as X-Request-Id, but never a raw
path, query, header, picture or text. The text of an exception may contain any of these, so only the type and location
of an unexpected exception are logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
import uuid
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import internal_error, shutting_down
from ..prometheus import Metrics

log = logging.getLogger(__name__)

# The page consists only of this server's files and of pictures in the browser.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), interest-cohort=()",
}


class Record:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp, metrics: Metrics, route: Callable[[str], str]) -> None:
        """`route`: maps a path to one of a few names, under which it is counted."""
        self._app = app
        self._metrics = metrics
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, _to_the_end(receive), send)
            return
        started = time.perf_counter()
        status = 0
        request_id = uuid.uuid4().hex

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                headers["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, dressed)
        except asyncio.CancelledError:
            # The server shuts down without waiting (a second Ctrl-C, or a request beyond its time limit): not
            # an error.
            if not status:
                await shutting_down().response(scope["path"])(scope, receive, dressed)
        except Exception as error:
            place = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s in %s\n%s", type(error).__name__, self._route(scope["path"]), place)
            if not status:
                await internal_error().response(scope["path"])(scope, receive, dressed)
        seconds = time.perf_counter() - started
        route = self._route(scope["path"])
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        log.info("%s %s %s %.0f ms %s", scope["method"], route, status or "left", 1000 * seconds, request_id)


def _to_the_end(receive: Receive) -> Receive:
    """Lifespan events. If the server shuts down without waiting, it cancels them."""

    async def next_one() -> Message:
        try:
            return await receive()
        except asyncio.CancelledError:
            return {"type": "lifespan.shutdown"}

    return next_one
