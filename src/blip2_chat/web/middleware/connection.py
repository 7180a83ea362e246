"""HTTP connections: timeouts, and errors below the application in the same format as all others."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import ApiError


class Connection(H11Protocol):
    """A connection that is closed if no request has begun, or nothing of a response was read, for the
    keep-alive time. uvicorn's timer stops at the first byte of a request, and it waits for readers forever: a
    few hundred unfinished requests, or responses that nobody reads, would lock out everybody else."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # uvicorn refuses connections over its limit in plain text, so the limit is applied here instead.
        self._most = self.limit_concurrency
        self.limit_concurrency = None
        self._answer = self.app
        self.app = self._answer_or_refuse

    async def _answer_or_refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = self._most
        # This request is already among the tasks.
        if most is not None and (len(self.connections) >= most or len(self.tasks) > most):
            busy = ApiError(
                503,
                "the server has too many connections open; try again in a moment",
                code="too_many_connections",
                headers={"Retry-After": "1", "Connection": "close", "X-Request-Id": uuid.uuid4().hex},
            )
            await busy.response(scope["path"])(scope, receive, send)
            return
        await self._answer(scope, receive, send)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn while it handles a protocol error reported by h11."""
        cause = sys.exc_info()[1]
        status = getattr(cause, "error_status_hint", 400)
        if self.cycle is not None:  # the application must not respond as well
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            told = (
                "the request's head is too large"
                if status == 431
                else f"this is not valid HTTP: {cause or msg}"
            )
            content = json.dumps(ApiError(status, told[:300], code="invalid_http").body).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(content)).encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"connection", b"close"),
                (b"x-request-id", uuid.uuid4().hex.encode()),
            ]
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_later(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clock.cancel()
        super().connection_lost(exc)

    def _look_later(self, last: object) -> None:
        self._clock = self.loop.call_later(self.timeout_keep_alive, self._look, last)

    def _look(self, last: object) -> None:
        """`last`: the previous observation: the unread bytes of a response, or the finished request."""
        unread = self.transport.get_write_buffer_size()
        if unread:
            if unread == last:
                self.transport.abort()  # closing would wait until everything is read
            else:
                self._look_later(unread)
            return
        over = self.cycle is None or self.cycle.response_complete
        if over and self.cycle is last:
            self.transport.close()
        else:
            self._look_later(self.cycle if over else self)
