"""Admission: limits on the number of requests, and on the bytes of each and of all together.

A request is counted from its first byte to the last one of its answer, so memory is bounded, and a request that
exceeds the limits is refused before its body is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ApiError
from ..memory import Trimmer
from ..settings import MIB, Settings

# Up to this size, a refused body is read and discarded, because clients read a response only after sending.
_READ_OFF = 64 * MIB


class Places:
    """The number of current requests, and the bytes of their bodies."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.slots + settings.queue
        self.requests = 0
        self.held_bytes = 0

    @property
    def full(self) -> bool:
        return self.requests >= self._most


class Intake:
    """ASGI middleware for routes with a body: 408, 413 and 429."""

    def __init__(self, app: ASGIApp, settings: Settings, places: Places, wait: Callable[[], float]) -> None:
        """`wait`: returns the seconds after which a refused client may retry."""
        self._app = app
        self._settings = settings
        self._places = places
        self._wait = wait
        self._trimmer = Trimmer()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        if self._places.full:
            await _refuse(self._busy(), scope, receive, send, self._settings.read_off_seconds)
            return
        self._places.requests += 1
        held = _Held(self._places)
        try:
            try:
                declared = Headers(scope=scope).get("content-length", "")
                if declared.isdecimal() and int(declared) > self._settings.max_body_bytes:
                    raise self._too_large()
                with anyio.fail_after(self._settings.time_limit / 2):
                    body = await self._read(receive, held)
            except ApiError as error:
                seconds = self._settings.read_off_seconds
                await _refuse(error, scope, receive, send, seconds, held.more)
                return
            except TimeoutError:
                late = ApiError(408, "the request did not arrive in time", code="timeout")
                await late.response(scope["path"])(scope, receive, send)
                return
            if body is not None:
                await self._app(scope, _Replay(body, receive), send)
        finally:
            self._places.requests -= 1
            self._places.held_bytes -= held.count
            if held.count > MIB:
                self._trimmer.later()

    async def _read(self, receive: Receive, held: _Held) -> bytes | None:
        """The whole body; None if the client disconnected."""
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            held.more = message.get("more_body", False)
            if held.count + len(chunk) > self._settings.max_body_bytes:
                raise self._too_large()
            if self._places.held_bytes + len(chunk) > self._settings.max_held_bytes:
                raise self._busy()
            held.add(len(chunk))
            chunks.append(chunk)
            if not held.more:
                return b"".join(chunks)

    def _too_large(self) -> ApiError:
        limit = self._settings.max_body_bytes // MIB
        return ApiError(413, f"the request is larger than {limit} MiB; send a smaller copy of the picture")

    def _busy(self) -> ApiError:
        seconds = min(60, max(1, math.ceil(self._wait())))
        return ApiError(
            429,
            f"all places are taken; try again in {seconds} s",
            code="queue_full",
            headers={"Retry-After": str(seconds)},
        )


class _Held:
    """Counts the bytes of a request, and knows whether more will follow."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.count = 0
        self.more = True

    def add(self, count: int) -> None:
        self.count += count
        self._places.held_bytes += count


class _Replay:
    """A `receive` that returns the body, and then the messages of the connection (a disconnect)."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()


async def _refuse(
    error: ApiError, scope: Scope, receive: Receive, send: Send, seconds: float, more: bool = True
) -> None:
    """`more`: whether more of its body will follow, which is read for `seconds` at most."""
    count = 0
    with anyio.move_on_after(seconds):
        while more and count < _READ_OFF:
            message = await receive()
            count += len(message.get("body", b""))
            more = message.get("more_body", False)
    error.headers["Connection"] = "close"
    await error.response(scope["path"])(scope, receive, send)
