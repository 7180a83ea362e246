"""One replica: the application over one model, without the middleware, which is in front of all replicas."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from ...loading import load
from ..app import make_routes
from ..service import Service
from ..settings import Settings

# The type of a message that is a line for the log: in front, there is one log for all replicas.
LOG = "blip2_chat.log"

_log = logging.getLogger(__name__)
_tell: ContextVar[Callable[[Message], None] | None] = ContextVar("tell", default=None)


@dataclass(frozen=True)
class About:
    """What the front asks a replica when it starts. paths: of the API; page: of the page's files."""

    ids: tuple[str, ...]
    name: str
    engine: str
    precision: str
    is_embedded: bool
    paths: frozenset[str]
    page: frozenset[str]


class Replica:
    """The class that Ray Serve deploys."""

    def __init__(self, loading: dict[str, Any], settings: Settings) -> None:
        """`loading`: `load`'s arguments."""
        web = logging.getLogger("blip2_chat.web")
        web.setLevel(logging.INFO)
        web.addHandler(_ToTheFront())
        self._model = load(**loading)
        self._service = Service([self._model], settings)
        self._app = make_routes(self._service)

    async def answer(self, scope: Scope, body: bytes) -> AsyncIterator[list[Message]]:
        """The ASGI messages of the response to one request, and its lines for the log, as they come. Closing the
        iterator is the client's leaving."""
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        gone = asyncio.Event()
        unread = [body]

        async def receive() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            messages.put_nowait(message)

        async def run() -> None:
            _tell.set(lambda message: _put(loop, messages, message))
            try:
                await self._respond(scope, receive, send)
            finally:
                _put(loop, messages, None)

        task = asyncio.create_task(run())
        try:
            ended = False
            while not ended:
                some = [await messages.get()]
                # Several tokens of a fast model travel together.
                while not messages.empty():
                    some.append(messages.get_nowait())
                ended = some[-1] is None
                if told := [message for message in some if message is not None]:
                    yield told
        finally:
            gone.set()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            # Starlette raises it again once it has answered with a 500. Its text may have a user's in it.
            place = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s in a replica\n%s", type(error).__name__, place)

    async def about(self) -> About:
        """Its model, and its paths."""
        engine = self._model.engine
        return About(
            tuple(served.id for served in self._service.models),
            self._model.name,
            engine.name,
            engine.precision,
            all(served.is_embedded for served in self._service.models),
            frozenset(self._app.openapi()["paths"]),
            frozenset(self._service.page),
        )

    async def metrics(self) -> tuple[str, bytes]:
        """Machine and process, and what there is to tell of it in Prometheus' text format."""
        return f"{socket.gethostname()}:{os.getpid()}", self._service.metrics.text()

    async def check_health(self) -> None:
        """Ray Serve replaces a replica of which this raises."""
        if not self._service.alive:
            raise RuntimeError("the model's thread has ended")

    def __del__(self) -> None:
        # Ray Serve calls it when a replica is to end; there is none where the model could not be loaded.
        if hasattr(self, "_service"):
            self._service.close()
            self._model.close()


def _put(
    loop: asyncio.AbstractEventLoop, messages: asyncio.Queue[Message | None], message: Message | None
) -> None:
    """From any thread, after what was put before."""
    loop.call_soon_threadsafe(messages.put_nowait, message)


class _ToTheFront(logging.Handler):
    """Sends what is logged while a request is answered along with its answer."""

    def emit(self, record: logging.LogRecord) -> None:
        tell = _tell.get()
        if tell is not None:
            tell({"type": LOG, "level": record.levelno, "text": record.getMessage()})
