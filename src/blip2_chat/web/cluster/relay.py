"""The front of the replicas: an ASGI application that hands each request to one of them and its answer back."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import anyio
from ray.exceptions import RayError, RayTaskError
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from ..disconnect import ClientGoneError, unless_gone
from ..errors import ApiError
from .affinity import picture_key
from .deployment import Deployment
from .replica import LOG

log = logging.getLogger(__name__)

# Bodies from this size on are read for their picture in a thread.
_LARGE = 64 * 1024
# Seconds beyond the time limit that a replica has to say itself that it is over.
_GRACE = 2.0
# What a replica needs to know of a request. The key is for the front alone.
_PASSED_ON = (
    *("type", "http_version", "method", "scheme", "path", "raw_path"),
    *("query_string", "root_path", "client", "server"),
)


class Relay:
    """ASGI: requests of one picture go to the replica that knows it; where a replica dies before the first byte of an
    answer was sent, another one answers."""

    def __init__(self, deployment: Deployment, time_limit: float) -> None:
        self._deployment = deployment
        self._time_limit = time_limit
        self.pace = 0.0  # seconds of a request, on average
        # What replicas say of themselves (models, paths) does not change.
        self._kept: dict[bytes, list[Message]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request = Request(scope, receive)
        is_read = scope["method"] not in ("GET", "HEAD")
        body = await request.body() if is_read else b""
        answer = _Answer(scope, send)
        if scope["method"] == "GET" and (kept := self._kept.get(_address(scope))):
            for message in kept:
                await send(message)
            return
        try:
            work = self._answered(scope, body, answer)
            await unless_gone(request, work, self._time_limit + _GRACE)
        except ClientGoneError:
            return
        except ApiError as error:
            await answer.fail(error)
        if is_read:
            seconds = time.perf_counter() - started
            self.pace = 0.8 * self.pace + 0.2 * seconds if self.pace else seconds
        elif answer.is_whole and scope["path"] in self._deployment.about.paths:
            self._kept[_address(scope)] = answer.messages

    async def _answered(self, scope: Scope, body: bytes, answer: _Answer) -> None:
        content_type = Request(scope).headers.get("content-type", "")
        if len(body) < _LARGE:
            key = picture_key(body, content_type)
        else:
            key = await anyio.to_thread.run_sync(picture_key, body, content_type)
        passed = {name: scope[name] for name in _PASSED_ON if name in scope}
        passed["headers"] = [
            pair for pair in scope["headers"] if pair[0] not in (b"authorization", b"cookie")
        ]
        # Each replica can die once, and whoever replaces one, too.
        for _ in range(2 * self._deployment.replicas):
            if await self._tried(key, passed, body, answer):
                return
        raise _lost()

    async def _tried(self, key: str, scope: Scope, body: bytes, answer: _Answer) -> bool:
        """Whether a replica gave the whole answer; False if it died before any of it was sent."""
        response = self._deployment.ask(key, scope, body)
        try:
            async for messages in response:
                for message in messages:
                    if message["type"] == LOG:
                        log.log(message["level"], "%s", message["text"])
                    else:
                        await answer.send(message)
            return True
        except RayTaskError:
            raise  # of our own making
        except RayError as error:
            log.warning(
                "a replica is gone (%s); %s",
                type(error).__name__,
                "a part of its answer was sent already" if answer.begun else "another one answers",
            )
            if answer.begun:
                raise _lost() from None
            return False
        finally:
            response.cancel()


class _Answer:
    """What was sent of one answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._path: str = scope["path"]
        self._scope = scope
        self._send = send
        self.messages: list[Message] = []
        self._type = ""

    @property
    def begun(self) -> bool:
        return bool(self.messages)

    @property
    def is_whole(self) -> bool:
        """Whether it is there to the end, and no error."""
        return (
            self.begun and self.messages[0]["status"] == 200 and not self.messages[-1].get("more_body", False)
        )

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = {name.lower(): value for name, value in message["headers"]}
            self._type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip()
        # Its headers are changed on the way out.
        self.messages.append({**message, "headers": list(message.get("headers", ()))})
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Says so: as a response where none has begun, as the last event of a stream. The connection of another
        response is cut."""
        if not self.begun:

            async def nothing() -> Message:
                return {"type": "http.disconnect"}

            await error.response(self._path)(self._scope, nothing, self._send)
            return
        text = json.dumps(error.body_at(self._path))
        lines = {"text/event-stream": f"data: {text}\n\n", "application/x-ndjson": f"{text}\n"}
        if self._type not in lines:
            raise ConnectionError("the answer has no end")
        await self._send(
            {"type": "http.response.body", "body": lines[self._type].encode(), "more_body": False}
        )


def _address(scope: Scope) -> bytes:
    raw: Any = scope.get("raw_path") or scope["path"].encode()
    return bytes(raw) + b"?" + bytes(scope.get("query_string", b""))


def _lost() -> ApiError:
    return ApiError(
        503,
        "the machine that was to answer is gone; ask again",
        code="replica_lost",
        headers={"Retry-After": "1"},
    )
