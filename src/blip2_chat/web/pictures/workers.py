"""A thread pool shared between clients, of which no single client can use all threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass
class _Client:
    places: asyncio.Semaphore
    users: int = field(default=0)  # waiting tasks, and waiting or running work


class Workers:
    """A thread pool. If a client disconnects, its work is dropped unless it has begun; running work counts for
    the client until it ends, so that reconnecting gains no threads."""

    def __init__(self, threads: int, name: str) -> None:
        self._most = max(1, threads - 1)
        self._pool = ThreadPoolExecutor(threads, name)
        self._clients: dict[str, _Client] = {}

    async def run(self, client: str, work: Callable[..., Result], *args: Any) -> Result:
        """Runs `work(*args)` in a thread. `client`: an address."""
        loop = asyncio.get_running_loop()
        one = self._clients.setdefault(client, _Client(asyncio.Semaphore(self._most)))
        one.users += 1
        try:
            await one.places.acquire()
        except BaseException:
            self._leave(client, one)
            raise

        def done() -> None:
            one.places.release()
            self._leave(client, one)

        def ended(_: Future[Result]) -> None:
            with suppress(RuntimeError):  # the event loop is closed: the server has shut down
                loop.call_soon_threadsafe(done)

        try:
            future = self._pool.submit(work, *args)
        except BaseException:
            done()
            raise
        future.add_done_callback(ended)
        try:
            return await asyncio.wrap_future(future)  # cancelling it removes the work from the queue
        finally:
            # An error holds its traceback, that this frame, and this the future with the error: a circle that would
            # keep the picture in memory until the garbage collector's next full turn.
            del future

    def _leave(self, client: str, one: _Client) -> None:
        one.users -= 1
        if not one.users and self._clients.get(client) is one:
            del self._clients[client]

    def close(self) -> None:
        """Does not wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)
