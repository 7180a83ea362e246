"""`POST /v1/responses`: OpenAI's newer API. Stateless: the whole conversation comes with each request."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response

from ...generation.rows import End
from .. import conversation, schemas
from .. import schemas_responses as wire
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
    "background": (None, False),
    "conversation": (None,),
    "prompt": (None,),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "top_logprobs": (None, 0),
}
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "description": "The type that is in the data as well."},
        "data": {"type": "string", "description": "An event of the responses API as JSON."},
    },
    "required": ["event", "data"],
}


def router(service: Service) -> APIRouter:
    """The route of a service."""
    routes = APIRouter(prefix="/v1", responses=ERRORS)

    @routes.post(
        "/responses",
        summary="Go on with a conversation about a picture, by OpenAI's newer API",
        response_model=wire.ModelResponse,
        responses={200: {"content": {"text/event-stream": {"schema": _EVENT}}}},
        openapi_extra=body_of(wire.ResponsesRequest),
    )
    async def respond(request: Request) -> Response:
        body = await json_body(request, wire.ResponsesRequest)
        return await _Answered(service, request, body).response()

    return routes


class _Answered:
    """The answer to one request, whole or streamed."""

    def __init__(self, service: Service, request: Request, body: wire.ResponsesRequest) -> None:
        deadline = anyio.current_time() + service.settings.time_limit
        _check(body)
        self._body = body
        self._created = int(time.time())
        self._id = f"resp_{uuid.uuid4().hex}"
        self._served = service.served(body.model)
        given = (body.text or {}).get("format")
        only_captions = service.only_captions(body.model)
        self._form = forms.wanted(given, body.tools, body.tool_choice, "text.format", only_captions)
        self._item_id = f"{'fc' if self._tool else 'msg'}_{uuid.uuid4().hex}"
        self._call_id = f"call_{uuid.uuid4().hex[:24]}"
        self._decoding = self._served.decoding(body, body.max_output_tokens or body.max_tokens)
        asked = conversation.read(
            _messages(body),
            service.settings,
            "input",
            "add an input_image part to a user's message",
            only_captions,
        )
        form = self._form.form if self._form is not None else None
        self._answer = Answering(
            service, request, self._served, Wanted(asked, self._decoding, form), deadline
        )

    async def response(self) -> Response:
        await self._answer.start()
        if self._body.stream:
            return AnswerStream(self._streamed(), self._answer, "text/event-stream")
        try:
            _, ends = await self._answer.whole()
        finally:
            self._answer.cancel()
        return Response(self._ended(ends[0]).model_dump_json(), media_type="application/json")

    @property
    def _tool(self) -> str | None:
        return self._form.tool if self._form is not None else None

    async def _streamed(self) -> AsyncIterator[str]:
        number = 0

        def sent(kind: str, **more: Any) -> str:
            nonlocal number
            data = compact({"type": kind, "sequence_number": number, **more})
            number += 1
            return f"event: {kind}\ndata: {data}\n\n"

        at = {"item_id": self._item_id, "output_index": 0}
        try:
            begun = self._made("in_progress", []).model_dump()
            yield sent("response.created", response=begun)
            yield sent("response.in_progress", response=begun)
            item = self._item("", "in_progress").model_dump()
            item = item if self._tool else {**item, "content": []}
            yield sent("response.output_item.added", output_index=0, item=item)
            if not self._tool:
                yield sent(
                    "response.content_part.added",
                    **at,
                    content_index=0,
                    part=wire.OutputText(text="").model_dump(),
                )
            async for event in self._answer:
                if not isinstance(event, End):
                    for kind, more in self._delta(event.text):
                        yield sent(kind, **at, **more)
                    continue
                for kind, more in self._done(event.text):
                    yield sent(kind, **at, **more)
                end = event
            ended = self._ended(end)
            yield sent("response.output_item.done", output_index=0, item=ended.output[0].model_dump())
            yield sent(f"response.{ended.status}", response=ended.model_dump())
        except TimeoutError:
            yield sent("error", **_told(too_late()))
        except Exception as error:
            log.error("%s in a stream", type(error).__name__)
            yield sent("error", **_told(internal_error()))

    def _delta(self, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._tool:
            yield "response.function_call_arguments.delta", {"delta": text}
        elif text:
            yield "response.output_text.delta", {"content_index": 0, "delta": text, "logprobs": []}

    def _done(self, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._tool:
            yield "response.function_call_arguments.done", {"name": self._tool, "arguments": text}
            return
        yield "response.output_text.done", {"content_index": 0, "text": text, "logprobs": []}
        part = wire.OutputText(text=text).model_dump()
        yield "response.content_part.done", {"content_index": 0, "part": part}

    def _item(self, text: str, status: wire.Status) -> wire.OutputMessage | wire.OutputCall:
        if self._tool:
            return wire.OutputCall(
                id=self._item_id, call_id=self._call_id, name=self._tool, arguments=text, status=status
            )
        return wire.OutputMessage(id=self._item_id, status=status, content=[wire.OutputText(text=text)])

    def _ended(self, end: End) -> wire.ModelResponse:
        usage = self._answer.usage
        assert usage is not None
        is_cut = reason(end) == "length"
        status: wire.Status = "incomplete" if is_cut else "completed"
        return self._made(
            status,
            [self._item(end.text, status)],
            completed_at=None if is_cut else int(time.time()),
            incomplete_details=wire.Incomplete(reason="max_output_tokens") if is_cut else None,
            usage=wire.ResponseUsage(
                input_tokens=usage.prompt_tokens,
                input_tokens_details=wire.InputDetails(
                    cached_tokens=usage.prompt_tokens_details.cached_tokens
                ),
                output_tokens=usage.completion_tokens,
                output_tokens_details=wire.OutputDetails(),
                total_tokens=usage.total_tokens,
            ),
        )

    def _made(
        self, status: wire.Status, output: list[wire.OutputMessage | wire.OutputCall], **more: Any
    ) -> wire.ModelResponse:
        body = self._body
        return wire.ModelResponse(
            id=self._id,
            created_at=self._created,
            status=status,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            model=self._served.id,
            output=output,
            temperature=self._decoding.temperature,
            top_p=self._decoding.top_p or 1.0,
            text=body.text or {"format": {"type": "text"}},
            tool_choice=body.tool_choice or "auto",
            tools=body.tools or [],
            blip2_chat=about(self._answer.told),
            **more,
        )


def _check(body: wire.ResponsesRequest) -> None:
    for name, nothing in _REFUSED.items():
        if (body.model_extra or {}).get(name) not in nothing:
            raise ApiError(
                400, f"{name} is not supported by this server", param=name, code="unsupported_parameter"
            )
    if body.previous_response_id is not None:
        raise ApiError(
            400,
            "this server stores no responses: instead of previous_response_id send the whole conversation as input",
            param="previous_response_id",
            code="unsupported_parameter",
        )
    if body.store:
        raise ApiError(
            400,
            "this server stores no responses: leave out store, or send store: false",
            param="store",
            code="unsupported_parameter",
        )


def _messages(body: wire.ResponsesRequest) -> list[schemas.Message]:
    """The input as messages of the older API, which `conversation` reads."""
    if isinstance(body.input, str):
        return [schemas.Message(role="user", content=body.input)]
    messages = [_message(item) for item in body.input if isinstance(item, wire.InputMessage)]
    if not messages:
        raise ApiError(400, "there is no message", param="input")
    return messages


def _message(given: wire.InputMessage) -> schemas.Message:
    if isinstance(given.content, str):
        return schemas.Message(role=given.role, content=given.content)
    parts: list[schemas.Part] = []
    for part in given.content:
        if isinstance(part, wire.InputText):
            parts.append(schemas.TextPart(type="text", text=part.text))
        elif part.image_url is None:
            raise ApiError(
                400, "an input_image needs an image_url: this server keeps no files", param="input"
            )
        else:
            parts.append(schemas.ImagePart(type="image_url", image_url=part.image_url))
    return schemas.Message(role=given.role, content=parts)


def _told(error: ApiError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "param": error.param}
