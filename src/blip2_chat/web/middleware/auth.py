"""Authentication: the host, the origin and the API key of a request.

A server on 127.0.0.1 can be reached by every page in a browser on this machine. A page of another site may send
requests (recognised by `Origin`), or resolve its own name to our address (DNS rebinding, recognised by `Host`).
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import ApiError
from ..settings import Settings
from .cors import is_allowed

# Paths that a browser needs before it can ask for the key, and that supervisors check.
_OPEN = ("/health", "/ready")


class Guard:
    """ASGI middleware: refuses with 400, 401 or 403 before the body is read."""

    def __init__(self, app: ASGIApp, settings: Settings, page: frozenset[str]) -> None:
        """`page`: the paths of the page's files, which need no key."""
        self._app = app
        self._hosts = settings.allowed_hosts
        self._origins = settings.allowed_origins
        # Compared as digests, which have equal length, in constant time.
        self._key = _digest(settings.api_key.encode()) if settings.api_key is not None else None
        self._open = frozenset(_OPEN) | page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope["path"], Headers(scope=scope))
            except ApiError as error:
                await error.response(scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy that uses the other header would treat the rest of this request as the next one (RFC
            # 9112, 6.1).
            raise ApiError(
                400,
                "send Content-Length or Transfer-Encoding, not both",
                code="invalid_http",
                headers={"Connection": "close"},
            )
        host = headers.get("host", "")
        if self._hosts and _hostname(host) not in self._hosts:
            raise ApiError(
                400,
                "this server does not go by that name; start it with --allowed-host to add one",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not _same(origin, host) and not is_allowed(origin, self._origins):
            raise ApiError(
                403,
                "requests from other sites' pages are not answered; --allowed-origin at the start adds one",
                code="cross_origin",
            )
        if self._key is not None and path not in self._open:
            self._check_key(headers.get("authorization", ""))

    def _check_key(self, authorization: str) -> None:
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip().encode("utf-8", "surrogateescape"))
        assert self._key is not None
        if not hmac.compare_digest(given, self._key) or scheme.lower() != "bearer":
            raise ApiError(
                401,
                "this server wants its API key: Authorization: Bearer <key>",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _same(origin: str, host: str) -> bool:
    """Whether the origin of a page is the host of its request."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # "http://[::1"
        return False


def _hostname(host: str) -> str:
    """Without the port: "[::1]:8000" -> "::1"."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
