"""Models that are loaded while the server runs already, and the turns in which tools use them."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, TypeVar

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from ..errors import Blip2ChatError
from ..system.progress import Progress

Loaded = TypeVar("Loaded")
Result = TypeVar("Result")

# Seconds between two reports of progress while a model loads.
_BEAT = 0.5


class Loading(Generic[Loaded]):
    """A model that is loaded in a thread of its own, so that a host that starts the server need not wait for it."""

    def __init__(self, load: Callable[[Progress], Loaded]) -> None:
        """`load` is given a function that it tells its progress to."""
        self.at = ("loading the model", 0, 1)
        self._load = load
        self._model: Loaded | None = None
        self._error: BaseException | None = None
        self._over = threading.Event()
        # A model is for one thread at a time.
        self._turn = anyio.Lock()
        threading.Thread(target=self._run, name="blip2-chat loading", daemon=True).start()

    def _run(self) -> None:
        try:
            self._model = self._load(self._told)
        except BaseException as error:
            self._error = error
        self._over.set()

    def _told(self, what: str, done: int, total: int) -> None:
        self.at = (what, done, total)

    @property
    def model(self) -> Loaded:
        """Once it is there; raises what loading raised."""
        if self._error is not None:
            raise self._error
        assert self._model is not None
        return self._model

    async def worked(self, context: Context, work: Callable[[Loaded], Result]) -> Result:
        """What `work` makes of the model, in a thread, when it is loaded and others are done with it."""
        while not self._over.is_set():
            what, done, total = self.at
            await context.report_progress(done, total or None, what)
            await anyio.sleep(_BEAT)
        async with self._turn:
            return await anyio.to_thread.run_sync(partial(work, self.model))


async def told(work: Awaitable[Result]) -> Result:
    """The result; what a model can act on reaches it as the text of the error."""
    try:
        return await work
    except Blip2ChatError as error:
        raise ToolError(str(error)) from None
