"""Work for a client, until it leaves or its time is over."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import anyio
from starlette.requests import Request

from .errors import ApiError

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client has disconnected."""


async def unless_gone(request: Request, work: Awaitable[Result], seconds: float) -> Result:
    """The result of `work`, cancelled when the client disconnects (`ClientGoneError`) or after `seconds` (504).

    The body of the request must have been read, so that the next message can only be a disconnect.
    """
    results: list[Result] = []
    errors: list[Exception] = []

    async def watch(scope: anyio.CancelScope) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    with anyio.move_on_after(max(seconds, 0)) as clock:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, tasks.cancel_scope)
            try:
                results.append(await work)
            except Exception as error:  # raised below: a task group would wrap it
                errors.append(error)
            tasks.cancel_scope.cancel()
    if errors:
        raise errors.pop()  # no longer held by this frame, which its traceback holds
    if results:
        return results[0]
    raise too_late() if clock.cancelled_caught else ClientGoneError


def too_late() -> ApiError:
    return ApiError(504, "the answer took longer than this server allows", code="timeout")
