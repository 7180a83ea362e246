"""`/v1/chat/completions` and `/v1/models`, compatible with OpenAI's clients."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ...generation.rows import End, Event, Piece, Score, Task
from ...images import PreparedPicture
from ...prompts import FittedPrompt
from .. import conversation, schemas
from ..errors import ApiError, internal_error
from ..model_worker import Served, client_of
from ..scheduler import Ticket
from ..service import Service
from .bodies import json_body
from .common import ERRORS, advice, too_late, unless_gone

log = logging.getLogger(__name__)

# Unsupported fields that would change an answer, and their neutral values.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
}

# Parsed by `json_body`, so FastAPI does not see it; `app.py` adds the schema that it names.
_REQUEST_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}},
}
_EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "A chat.completion.chunk as JSON, or [DONE]."}},
    "required": ["data"],
}


def router(service: Service) -> APIRouter:
    """The routes of a service."""
    routes = APIRouter(prefix="/v1", responses=ERRORS)

    @routes.get("/models", summary="The models that are here")
    async def models() -> schemas.ModelList:
        return schemas.ModelList(data=[service.about(served) for served in service.models])

    @routes.get("/models/{model:path}", summary="One model")
    async def model(model: str) -> schemas.ModelEntry:
        return service.about(service.served(model))

    @routes.post(
        "/chat/completions",
        summary="Go on with a conversation about a picture",
        response_model=schemas.ChatResponse,
        responses={200: {"content": {"text/event-stream": {"schema": _EVENT}}}},
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def chat(request: Request) -> Response:
        body = await json_body(request, schemas.ChatRequest)
        return await _Completion(service, request, body).response()

    return routes


class _Completion:
    """The answer to one request, whole or streamed."""

    def __init__(self, service: Service, request: Request, body: schemas.ChatRequest) -> None:
        self._service = service
        self._request = request
        self._body = body
        self._deadline = anyio.current_time() + service.settings.time_limit
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._served = service.served(body.model)
        _check(body)
        most = body.max_completion_tokens or body.max_tokens
        answers = body.n or 1
        self._decoding = self._served.decoding(body, most, answers)
        # Greedy answers are identical: generate one and return it n times.
        self._copies = answers if self._decoding.num_answers == 1 else 1

    async def response(self) -> Response:
        asked = conversation.read(self._body.messages, self._service.settings)
        picture = await self._in_time(self._served.open(asked.picture, client=client_of(self._request)))
        prompt = await anyio.to_thread.run_sync(
            conversation.prompt, asked, self._served.model, self._decoding
        )
        top = (self._body.top_logprobs or 0) if self._body.logprobs else None
        stop = (*self._served.model.template.stop, *self._decoding.stop)
        instruction = self._served.model.tokenizer.instruction(prompt.text)
        task = Task(prompt.token_ids, self._decoding, stop, top, instruction=instruction)
        ticket = self._served.submit(picture, task, self._request)
        try:
            events = ticket.__aiter__()
            # The first token decides between an error status and a stream.
            first = await self._in_time(events.__anext__())
            if self._body.stream:
                pieces = self._streamed(first, events, ticket, prompt)
                return _EventStream(pieces, self._served, ticket, self._deadline)
            made = await self._in_time(self._whole(first, events, ticket, prompt))
        except BaseException:
            self._served.scheduler.cancel(ticket)
            raise
        return Response(made.model_dump_json(), media_type="application/json")

    async def _in_time(self, work: Any) -> Any:
        return await unless_gone(self._request, work, self._deadline - anyio.current_time())

    async def _whole(
        self,
        first: Event,
        events: AsyncIterator[Event],
        ticket: Ticket,
        prompt: FittedPrompt,
    ) -> schemas.ChatResponse:
        scores: dict[int, list[Score]] = {}
        ends: list[End] = []
        event: Event | None = first
        while event is not None:
            if isinstance(event, Piece):
                scores.setdefault(event.index, []).extend(event.scores)
            else:
                ends.append(event)
            event = await anext(events, None)
        ends.sort(key=lambda end: end.index)
        choices = [
            schemas.Choice(
                index=index,
                message=schemas.AnswerMessage(content=end.text),
                logprobs=self._logprobs(scores.get(end.index, []), []),
                finish_reason=_reason(end),
            )
            for index, end in enumerate(ends * self._copies)
        ]
        usage = self._finish(ticket, prompt, ends)
        return schemas.ChatResponse(
            id=self._id,
            created=self._created,
            model=self._served.id,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=usage,
            blip2_chat=_about(ticket.picture, prompt),
        )

    async def _streamed(
        self,
        first: Event,
        events: AsyncIterator[Event],
        ticket: Ticket,
        prompt: FittedPrompt,
    ) -> AsyncIterator[str]:
        answers = range(self._decoding.num_answers * self._copies)
        opening = [_choice(index, {"role": "assistant", "content": ""}) for index in answers]
        yield self._chunk(opening, blip2_chat=_about(ticket.picture, prompt).model_dump())
        ends: list[End] = []
        before: dict[int, list[int]] = {}
        event: Event | None = first
        try:
            while event is not None:
                if isinstance(event, End):
                    ends.append(event)
                for choice in self._told(event, before.setdefault(event.index, [])):
                    yield self._chunk([choice])
                with anyio.fail_after(max(0, self._deadline - anyio.current_time())):
                    event = await anext(events, None)
            usage = self._finish(ticket, prompt, ends)
            options = self._body.stream_options
            if options is not None and options.include_usage:
                yield self._chunk([], usage=usage.model_dump())
            yield "data: [DONE]\n\n"
        except TimeoutError:
            yield _data(too_late().body)
        except Exception as error:
            log.error("%s in a stream", type(error).__name__)
            yield _data(internal_error().body)

    def _told(self, event: Event, before: list[int]) -> Iterator[dict[str, Any]]:
        """A piece of text or an end, for each of the n copies."""
        for copy in range(self._copies):
            index = event.index + copy
            if isinstance(event, End):
                yield _choice(index, {}, _reason(event))
                continue
            told = self._logprobs(list(event.scores), before)
            yield _choice(index, {"content": event.text}, None, None if told is None else told.model_dump())
        if isinstance(event, Piece):
            before += [score.token for score in event.scores]

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> str:
        chunk: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._served.id,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            chunk["usage"] = None
        return _data({**chunk, **more})

    @property
    def _fingerprint(self) -> str:
        engine = self._served.model.engine
        return f"blip2-chat-{engine.name}-{engine.precision}"

    def _finish(self, ticket: Ticket, prompt: FittedPrompt, ends: list[End]) -> schemas.Usage:
        return self._service.finish(self._served, ticket, ends, prompt.text, self._copies)

    def _logprobs(self, scores: list[Score], before: list[int]) -> schemas.Logprobs | None:
        """`before`: the preceding tokens of the answer, on which the text of a token depends."""
        if not self._body.logprobs:
            return None
        ids = list(before)
        content = []
        for score in scores:
            likeliest = [self._entry(ids, *pair) for pair in score.likeliest]
            chosen = self._entry(ids, score.token, score.logprob)
            content.append(schemas.TokenLogprob(**chosen.model_dump(), top_logprobs=likeliest))
            ids.append(score.token)
        return schemas.Logprobs(content=content)

    def _entry(self, before: list[int], token: int, logprob: float) -> schemas.TopLogprob:
        decode = self._served.model.tokenizer.decode
        start = decode(before)
        text = decode([*before, token])
        text = text[len(start) :] if text.startswith(start) else decode([token])
        # A token that is part of a character has no text.
        whole = text != "" and "\N{REPLACEMENT CHARACTER}" not in text
        return schemas.TopLogprob(
            token=text, logprob=max(logprob, -9999.0), bytes=list(text.encode()) if whole else None
        )


class _EventStream(StreamingResponse):
    """Server-sent events; frees the slots and the queue entry however the response ends."""

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncIterator[str], served: Served, ticket: Ticket, deadline: float) -> None:
        super().__init__(pieces, headers={"X-Accel-Buffering": "no"})
        self._served = served
        self._ticket = ticket
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A client that does not read blocks `send`. One that reads gets an error for the time limit first: it
        # has a
        # second for that from when this loop, which may be late itself, comes to it.
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as reading:

            def late() -> None:
                reading.deadline = loop.time() + 1

            clock = loop.call_at(self._deadline, late)
            try:
                await super().__call__(scope, receive, send)
            finally:
                clock.cancel()
                self._served.scheduler.cancel(self._ticket)


def _check(body: schemas.ChatRequest) -> None:
    for name, nothing in _REFUSED.items():
        value = (body.model_extra or {}).get(name)
        if value not in nothing:
            raise ApiError(
                400, f"{name} is not supported by this server", param=name, code="unsupported_parameter"
            )
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if body.top_logprobs and body.num_beams > 1:
        raise ApiError(400, "beam search has no top_logprobs", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")


def _about(picture: PreparedPicture, prompt: FittedPrompt) -> schemas.About:
    return schemas.About(picture=picture.digest, advice=advice(picture), dropped_turns=prompt.dropped_turns)


def _reason(end: End) -> Any:
    return "length" if end.result.finish_reason == "length" else "stop"


def _choice(
    index: int, delta: dict[str, Any], reason: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _data(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"
