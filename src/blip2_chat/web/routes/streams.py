"""Streamed responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..answering import Answering


class AnswerStream(StreamingResponse):
    """An answer in pieces; frees its slots and its place in the queue however the response ends."""

    def __init__(self, pieces: AsyncIterator[str], answer: Answering, media_type: str) -> None:
        super().__init__(pieces, media_type=media_type, headers={"X-Accel-Buffering": "no"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A client that does not read blocks `send`. One that reads gets an error for the time limit first: it has a
        # second for that from when this loop, which may be late itself, comes to it.
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as reading:

            def late() -> None:
                reading.deadline = loop.time() + 1

            clock = loop.call_at(self._answer.deadline, late)
            try:
                await super().__call__(scope, receive, send)
            finally:
                clock.cancel()
                self._answer.cancel()


def compact(content: dict[str, Any]) -> str:
    """As JSON on one line."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
