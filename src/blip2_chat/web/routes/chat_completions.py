"""`/v1/chat/completions` and `/v1/models`, compatible with OpenAI's clients."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response

from ...generation.rows import End, Event, Piece, Score
from .. import conversation, schemas
from ..answering import Answering, Wanted
from ..disconnect import too_late
from ..errors import ApiError, internal_error
from ..forms import openai as forms
from ..service import Service
from .bodies import body_of, json_body
from .common import ERRORS, about, reason
from .streams import AnswerStream, compact

log = logging.getLogger(__name__)

# Unsupported fields that would change an answer, and their neutral values.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "functions": (None, []),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "modalities": (None, ["text"]),
    "audio": (None,),
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
        openapi_extra=body_of(schemas.ChatRequest),
    )
    async def chat(request: Request) -> Response:
        body = await json_body(request, schemas.ChatRequest)
        return await _Completion(service, request, body).response()

    return routes


class _Completion:
    """The answer to one request, whole or streamed."""

    def __init__(self, service: Service, request: Request, body: schemas.ChatRequest) -> None:
        deadline = anyio.current_time() + service.settings.time_limit
        self._body = body
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._served = service.served(body.model)
        only_captions = service.only_captions(body.model)
        self._form = _form(body, only_captions)
        answers = body.n or 1
        decoding = self._served.decoding(body, body.max_completion_tokens or body.max_tokens, answers)
        if self._form is not None:  # it is ranked, so there is one
            decoding = replace(decoding, num_answers=1)
        # Greedy answers are identical: generate one and return it n times.
        self._copies = answers if decoding.num_answers == 1 else 1
        self._indices = range(answers)
        wanted = Wanted(
            conversation.read(body.messages, service.settings, only_caption=only_captions),
            decoding,
            self._form.form if self._form is not None else None,
            (body.top_logprobs or 0) if body.logprobs else None,
            self._copies,
            body.explain,
        )
        self._answer = Answering(service, request, self._served, wanted, deadline)

    async def response(self) -> Response:
        await self._answer.start()
        if self._body.stream:
            return AnswerStream(self._streamed(), self._answer, "text/event-stream")
        try:
            made = await self._whole()
        finally:
            self._answer.cancel()
        return Response(made.model_dump_json(), media_type="application/json")

    async def _whole(self) -> schemas.ChatResponse:
        pieces, ends = await self._answer.whole()
        await self._answer.explain(ends[0].text)
        choices = []
        for index, end in enumerate(ends * self._copies):
            scores = [score for piece in pieces.get(end.index, []) for score in piece.scores]
            choices.append(
                schemas.Choice(
                    index=index,
                    message=self._message(end.text),
                    logprobs=self._logprobs(scores, []),
                    finish_reason=self._reason(end),
                )
            )
        assert self._answer.usage is not None
        return schemas.ChatResponse(
            id=self._id,
            created=self._created,
            model=self._served.id,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=self._answer.usage,
            blip2_chat=about(self._answer.told),
        )

    @property
    def _tool(self) -> str | None:
        """The tool whose arguments the answer is."""
        return self._form.tool if self._form is not None else None

    def _message(self, text: str) -> schemas.AnswerMessage:
        if self._tool is None:
            return schemas.AnswerMessage(content=text)
        return schemas.AnswerMessage(content=None, tool_calls=[_call(self._tool, text)])

    def _reason(self, end: End) -> Any:
        if self._tool is not None:
            return "tool_calls"
        return reason(end)

    async def _streamed(self) -> AsyncIterator[str]:
        opening = [_choice(index, {"role": "assistant", "content": ""}) for index in self._indices]
        yield self._chunk(opening, blip2_chat=about(self._answer.told).model_dump(exclude_none=True))
        before: dict[int, list[int]] = {}
        first = ""
        try:
            async for event in self._answer:
                if isinstance(event, End) and event.index == 0:
                    first = event.text
                for choice in self._told(event, before.setdefault(event.index, [])):
                    yield self._chunk([choice])
            await self._answer.explain(first)
            if self._answer.told.attribution is not None:
                yield self._chunk([], blip2_chat=about(self._answer.told).model_dump(exclude_none=True))
            options = self._body.stream_options
            if options is not None and options.include_usage and self._answer.usage is not None:
                yield self._chunk([], usage=self._answer.usage.model_dump())
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
                yield _choice(index, {}, self._reason(event))
                continue
            if self._tool is not None:
                call = {"index": 0, **_call(self._tool, event.text).model_dump()}
                yield _choice(index, {"tool_calls": [call]})
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


def _form(body: schemas.ChatRequest, only_captions: bool) -> forms.Wanted | None:
    """The form of the answer; 400 for what is asked for and cannot be had."""
    extra = body.model_extra or {}
    for name, nothing in _REFUSED.items():
        if extra.get(name) not in nothing:
            raise ApiError(
                400, f"{name} is not supported by this server", param=name, code="unsupported_parameter"
            )
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if body.top_logprobs and body.num_beams > 1:
        raise ApiError(400, "beam search has no top_logprobs", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")
    form = forms.wanted(body.response_format, body.tools, body.tool_choice, "response_format", only_captions)
    if isinstance(body.explain, str) and body.stream:
        raise ApiError(400, "an answer that is given is not streamed: leave stream out", param="explain")
    if form is not None and body.explain:
        raise ApiError(400, "an answer with a form cannot be explained", param="explain")
    if form is not None and body.logprobs:
        raise ApiError(
            400,
            "an answer with a form has no logprobs; blip2_chat.choices has the probability of each value",
            param="logprobs",
        )
    return form


def _call(tool: str, arguments: str) -> schemas.ToolCall:
    return schemas.ToolCall(
        id=f"call_{uuid.uuid4().hex[:24]}",
        function=schemas.CalledFunction(name=tool, arguments=arguments),
    )


def _choice(
    index: int, delta: dict[str, Any], reason: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _data(content: dict[str, Any]) -> str:
    return f"data: {compact(content)}\n\n"
