"""One model and everything that serves it; what the routes have in common."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TypeVar

import anyio
from starlette.requests import Request

from ..checkpoint import EMBEDDED
from ..decoding import Decoding
from ..errors import GenerationError, PictureError
from ..images import PictureLimits
from ..model import Model
from . import page_files, schemas
from .errors import ApiError
from .intake import Places
from .metrics import Metrics
from .pictures import Pictures, Seen
from .rows import End, Task
from .scheduler import Scheduler, Stopped, Ticket
from .settings import Settings
from .urls import picture_limits

Result = TypeVar("Result")


class Service:
    """Made once per server; `close` it."""

    def __init__(self, model: Model, settings: Settings, limits: PictureLimits | None = None) -> None:
        self.model = model
        self.settings = settings
        self.scheduler = Scheduler(model, settings.slots)
        self.pictures = Pictures(model.preprocess, limits or picture_limits(settings))
        self.metrics = Metrics(self.scheduler)
        self.places = Places(settings)
        self.started = int(time.time())
        # A folder's name, not its path: how the host's disk is laid out is nobody's business.
        self.model_id = Path(model.name).name if Path(model.name).is_dir() else model.name
        self.is_embedded = model.name == EMBEDDED
        self.page = page_files.load(samples=self.is_embedded)

    def close(self) -> None:
        """Finishes what runs."""
        self.scheduler.close()
        self.pictures.close()

    def require_model(self, name: str | None) -> None:
        """404 for any model but the one that is here."""
        if name is not None and name != self.model_id:
            raise ApiError(
                404,
                f"there is no model {name[:100]!r} here; this server has {self.model_id!r}",
                code="model_not_found",
            )

    def about_model(self) -> schemas.ModelEntry:
        engine, settings = self.model.engine, self.settings
        return schemas.ModelEntry(
            id=self.model_id,
            created=self.started,
            blip2_chat=schemas.ModelAbout(
                engine=engine.name,
                precision=engine.precision,
                device=engine.device,
                family=engine.config.family,
                embedded=self.is_embedded,
                max_tokens=self.longest_answer,
                max_picture_bytes=settings.max_picture_bytes,
                slots=settings.slots,
                allow_urls=settings.allow_urls,
                samples=[
                    schemas.Sample(path=path, name=path.rpartition("/")[2])
                    for path in self.page
                    if path.startswith("/samples/")
                ],
            ),
        )

    @property
    def longest_answer(self) -> int:
        """Tokens. In a decoder-only model's context an answer must leave room for the question."""
        config = self.model.engine.config
        room = max(1, config.prompt_budget // 2) if config.family == "opt" else self.settings.max_tokens
        return min(self.settings.max_tokens, room)

    def decoding(self, asked: schemas.Writing, most: int | None, answers: int = 1) -> Decoding:
        """`Decoding` out of a request; 400 where it contradicts itself or needs more than there is."""
        for name, rows in (("n", answers), ("num_beams", asked.num_beams)):
            if rows > self.settings.slots:
                raise ApiError(400, f"{name} is {rows}; this server allows {self.settings.slots}", param=name)
        top_p = None if asked.top_p == 1 else asked.top_p
        temperature = asked.temperature
        if temperature is None:
            # A client that asks for draws without a temperature means OpenAI's default, 1.
            drawn = top_p is not None or asked.top_k is not None or answers > 1
            temperature = 1.0 if drawn and asked.num_beams == 1 else 0.0
        longest = min(most or 50, self.longest_answer)
        stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        if len(stop) > 16:
            raise ApiError(400, f"{len(stop)} stop strings; this server allows 16", param="stop")
        try:
            return Decoding(
                max_new_tokens=longest,
                min_new_tokens=min(asked.min_tokens, longest),
                num_beams=asked.num_beams,
                length_penalty=asked.length_penalty,
                num_answers=answers if temperature or asked.num_beams > 1 else 1,
                temperature=temperature,
                top_k=asked.top_k if temperature else None,
                top_p=top_p if temperature else None,
                # numpy's generators take no negative seed; each of 64 bits has one of its own.
                seed=None if asked.seed is None else asked.seed % 2**64,
                repetition_penalty=asked.repetition_penalty,
                no_repeat_ngram_size=asked.no_repeat_ngram_size,
                stop=tuple(stop),
            )
        except GenerationError as error:
            raise ApiError(400, str(error)) from None

    async def open(self, source: str | bytes, name: str = "") -> Seen:
        """A picture that a request brought; 400 with what is wrong with it."""
        try:
            return await self.pictures.open(source, name)
        except PictureError as error:
            raise ApiError(400, str(error), code="invalid_image") from None

    def submit(self, seen: Seen, task: Task, request: Request) -> Ticket:
        """Takes a place in the queue; whoever does must `scheduler.cancel` the ticket, however it ends."""
        # Requests of one address take turns with those of others.
        client = request.client.host if request.client else ""
        try:
            return self.scheduler.submit(seen, task, client)
        except Stopped:
            raise ApiError(503, "the server is shutting down", code="shutting_down") from None

    def usage(self, written: Sequence[tuple[Ticket, Sequence[End]]], copies: int = 1) -> schemas.Usage:
        """What answers took; `copies` of each were given."""
        pictures = self.model.engine.config.num_query_tokens
        prompt = sum(pictures + len(ticket.task.prompt) for ticket, _ in written)
        tokens = copies * sum(len(end.result.token_ids) for _, ends in written for end in ends)
        return schemas.Usage(
            prompt_tokens=prompt,
            completion_tokens=tokens,
            total_tokens=prompt + tokens,
            prompt_tokens_details=schemas.PromptDetails(
                cached_tokens=sum(ticket.cached_tokens for ticket, _ in written)
            ),
        )

    def count(self, ticket: Ticket, usage: schemas.Usage) -> None:
        self.metrics.answered(ticket, usage.prompt_tokens, usage.completion_tokens)


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


async def unless_gone(request: Request, work: Awaitable[Result], seconds: float) -> Result:
    """The result of `work`, given up when the client leaves (`ClientGoneError`) or after `seconds` (504).

    The request's body must have been read: what comes after it can only be that the client left.
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
        raise errors[0]
    if results:
        return results[0]
    raise too_late() if clock.cancelled_caught else ClientGoneError


def too_late() -> ApiError:
    return ApiError(504, "the answer took longer than this server allows", code="timeout")


def advice(seen: Seen) -> list[schemas.AdviceEntry]:
    return [schemas.AdviceEntry(kind=one.kind, message=one.message) for one in seen.advice]
