"""Browser applications of other sites that may use the API (`--allowed-origin`)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

# Response headers that pages may read.
_EXPOSED = ("Retry-After", "X-Request-Id")


def is_allowed(origin: str, origins: Sequence[str]) -> bool:
    """Whether pages of this origin may send requests: it is listed, or "*" is."""
    return "*" in origins or origin.lower() in origins


class Cors:
    """ASGI middleware: answers the preflight requests of allowed origins, which carry no key, and lets their pages
    read all responses. Requests of other origins are passed on as they are, for `Guard` to refuse."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = origins
        self._cors = CORSMiddleware(
            app,
            # Which ones is decided here; this way each is told its own name, and caches keep them apart.
            allow_origin_regex=".*",
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
            allow_private_network=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        is_one = origin is not None and is_allowed(origin, self._origins)
        await (self._cors if is_one else self._app)(scope, receive, send)
