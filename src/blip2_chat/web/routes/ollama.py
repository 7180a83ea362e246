"""`/api/...`: the endpoints of Ollama that its clients need to ask about pictures."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from typing import Any

import anyio
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from ...generation.rows import End
from .. import conversation, schemas
from .. import schemas_ollama as wire
from ..answering import Answering, Wanted
from ..disconnect import too_late
from ..errors import ApiError, internal_error
from ..forms.schema import CAPTION_FORM, SUPPORTED, Form, read_form
from ..model_worker import Served
from ..service import Service
from .bodies import body_of, json_body
from .common import reason
from .streams import AnswerStream, compact

log = logging.getLogger(__name__)

# The version of Ollama whose endpoints these are; some clients refuse to talk to older ones.
_VERSION = "0.13.3"
_LATEST = ":latest"
_FAR = "2318-01-01T00:00:00Z"  # models stay loaded; Ollama says it in this way
_NDJSON = "application/x-ndjson"
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": wire.OllamaError} for status in (400, 401, 403, 404, 408, 413, 429, 500, 503, 504)
}


def router(service: Service) -> APIRouter:
    """The routes of a service."""
    routes = APIRouter(prefix="/api", responses=_ERRORS)

    @routes.get("/version", summary="The version of Ollama's API that this is")
    async def version() -> wire.OllamaVersion:
        return wire.OllamaVersion(version=_VERSION)

    @routes.get("/tags", summary="The models that are here, for Ollama's clients")
    async def tags() -> wire.OllamaTags:
        return wire.OllamaTags(models=[_entry(served) for served in service.models])

    @routes.get("/ps", summary="The models that are loaded: all of them")
    async def loaded() -> wire.OllamaRunning:
        return wire.OllamaRunning(
            models=[
                wire.OllamaRunningEntry(
                    **_entry(served).model_dump(),
                    expires_at=_FAR,
                    size_vram=0,
                    context_length=served.model.engine.config.prompt_budget,
                )
                for served in service.models
            ]
        )

    @routes.post(
        "/show",
        summary="One model, for Ollama's clients",
        response_model=wire.OllamaShown,
        openapi_extra=body_of(wire.OllamaShowRequest),
    )
    async def show(request: Request) -> wire.OllamaShown:
        asked = await json_body(request, wire.OllamaShowRequest, any_type=True)
        return _shown(_served(service, asked.model or asked.name))

    @routes.post(
        "/generate",
        summary="Ask about a picture, or caption it, as Ollama's clients do",
        response_model=wire.OllamaGenerateResponse,
        responses=_streamed(wire.OllamaGenerateResponse),
        openapi_extra=body_of(wire.OllamaGenerateRequest),
    )
    async def generate(request: Request) -> Response:
        body = await json_body(request, wire.OllamaGenerateRequest, any_type=True)
        if body.raw:
            raise ApiError(400, "raw is not supported by this server", param="raw")
        message = wire.OllamaMessage(role="user", content=body.prompt, images=body.images)
        messages = [message] if body.prompt or body.images else []
        return await _Answered(service, request, body, messages).response()

    @routes.post(
        "/chat",
        summary="Go on with a conversation about a picture, as Ollama's clients do",
        response_model=wire.OllamaChatResponse,
        responses=_streamed(wire.OllamaChatResponse),
        openapi_extra=body_of(wire.OllamaChatRequest),
    )
    async def chat(request: Request) -> Response:
        body = await json_body(request, wire.OllamaChatRequest, any_type=True)
        if body.tools:
            raise ApiError(
                400,
                "BLIP-2 cannot decide which tool to call; for an answer with a form give format",
                param="tools",
            )
        return await _Answered(service, request, body, body.messages).response()

    return routes


class _Answered:
    """The answer to one request, whole or streamed."""

    def __init__(
        self,
        service: Service,
        request: Request,
        body: wire.OllamaChatRequest | wire.OllamaGenerateRequest,
        messages: list[wire.OllamaMessage],
    ) -> None:
        self._started = time.monotonic()
        self._first: float | None = None
        self._body = body
        self._stream = body.stream is not False
        self._served = _served(service, body.model)
        self._answer: Answering | None = None
        if not messages:  # how Ollama's clients load a model
            return
        only_captions = service.only_captions(_id(body.model))
        form = _form(body.format, only_captions)
        asked = conversation.read(
            [_message(one) for one in messages],
            service.settings,
            part="put it, as base64, into the images of a user's message",
            only_caption=only_captions,
        )
        decoding = self._served.decoding(_writing(body.options or wire.OllamaOptions()), _most(body.options))
        deadline = anyio.current_time() + service.settings.time_limit
        self._answer = Answering(service, request, self._served, Wanted(asked, decoding, form), deadline)

    async def response(self) -> Response:
        if self._answer is None:
            made = self._made("", done=True, done_reason="load")
            return Response(
                made.model_dump_json(exclude_none=True) + "\n" * self._stream,
                media_type=_NDJSON if self._stream else "application/json",
            )
        await self._answer.start()
        self._first = time.monotonic()
        if self._stream:
            return AnswerStream(self._pieces(self._answer), self._answer, _NDJSON)
        try:
            _, ends = await self._answer.whole()
        finally:
            self._answer.cancel()
        return Response(
            self._last(self._answer, ends[0], ends[0].text).model_dump_json(exclude_none=True),
            media_type="application/json",
        )

    async def _pieces(self, answer: Answering) -> AsyncIterator[str]:
        try:
            last: End | None = None
            async for event in answer:
                if isinstance(event, End):
                    last = event
                else:
                    yield self._made(event.text).model_dump_json(exclude_none=True) + "\n"
            assert last is not None
            yield self._last(answer, last, "").model_dump_json(exclude_none=True) + "\n"
        except TimeoutError:
            yield compact({"error": too_late().message}) + "\n"
        except Exception as error:
            log.error("%s in a stream", type(error).__name__)
            yield compact({"error": internal_error().message}) + "\n"

    def _last(self, answer: Answering, end: End, text: str) -> BaseModel:
        now = time.monotonic()
        assert answer.usage is not None and self._first is not None
        return self._made(
            text,
            done=True,
            done_reason=reason(end),
            total_duration=_ns(now - self._started),
            load_duration=0,
            prompt_eval_count=answer.usage.prompt_tokens,
            prompt_eval_duration=_ns(self._first - self._started),
            eval_count=answer.usage.completion_tokens,
            eval_duration=_ns(now - self._first),
        )

    def _made(self, text: str, done: bool = False, **more: Any) -> BaseModel:
        about: dict[str, Any] = {
            "model": self._body.model or _name(self._served),
            "created_at": _now(),
            "done": done,
        }
        if isinstance(self._body, wire.OllamaChatRequest):
            return wire.OllamaChatResponse(message=wire.OllamaAnswerMessage(content=text), **about, **more)
        return wire.OllamaGenerateResponse(response=text, **about, **more)


def _served(service: Service, name: str | None) -> Served:
    """A model by its id, which may have Ollama's `:latest`."""
    return service.served(_id(name))


def _id(name: str | None) -> str | None:
    return name.removesuffix(_LATEST) if name else None


def _name(served: Served) -> str:
    return served.id if ":" in served.id else f"{served.id}{_LATEST}"


def _form(given: str | dict[str, Any] | None, only_captions: bool) -> Form | None:
    if given in (None, ""):
        return None
    if given == "json" and only_captions:
        return CAPTION_FORM
    if isinstance(given, str):
        raise ApiError(
            400,
            f"format must be a JSON schema, because this server ranks given answers; {SUPPORTED}",
            param="format",
        )
    return read_form(given, "format")


def _message(given: wire.OllamaMessage) -> schemas.Message:
    parts: list[schemas.Part] = [
        schemas.ImagePart(type="image_url", image_url=one if one[:5].lower() == "data:" else f"{_DATA}{one}")
        for one in given.images or ()
    ]
    content = _MARK.sub(" ", given.content or "") if given.images else given.content
    if content:
        parts.append(schemas.TextPart(type="text", text=content))
    return schemas.Message(role=given.role, content=parts)


_DATA = "data:image/png;base64,"
# Where in a text Ollama would put a picture.
_MARK = re.compile(r"\[img(?:-\d+)?\]")


def _writing(options: wire.OllamaOptions) -> schemas.Writing:
    if options.mirostat:
        raise ApiError(400, "mirostat is not supported by this server", param="mirostat")
    return schemas.Writing(
        temperature=options.temperature,
        # 0 is how Ollama turns these off.
        top_p=options.top_p or None,
        top_k=options.top_k if options.top_k and options.top_k > 0 else None,
        seed=options.seed,
        stop=options.stop or None,
        repetition_penalty=options.repeat_penalty or 1.0,
        num_beams=options.num_beams,
    )


def _most(options: wire.OllamaOptions | None) -> int | None:
    """Tokens of the answer at most; None: the default."""
    if options is None or options.num_predict is None:
        return None
    return options.num_predict if options.num_predict > 0 else 2**31


def _entry(served: Served) -> wire.OllamaEntry:
    engine = served.model.engine
    identity = f"{served.id} {engine.name} {engine.precision}"
    return wire.OllamaEntry(
        name=_name(served),
        model=_name(served),
        modified_at=_time(served.started),
        size=0,
        digest=hashlib.sha256(identity.encode()).hexdigest(),
        details=_details(served),
    )


def _details(served: Served) -> wire.OllamaDetails:
    engine = served.model.engine
    return wire.OllamaDetails(
        format=engine.name, family="blip-2", families=["blip-2"], quantization_level=engine.precision
    )


def _shown(served: Served) -> wire.OllamaShown:
    config = served.model.engine.config
    return wire.OllamaShown(
        template=served.model.template.question,
        details=_details(served),
        model_info={
            "general.architecture": "blip-2",
            "general.basename": served.id,
            "blip-2.context_length": config.prompt_budget,
            "blip-2.language_model": config.family,
        },
        capabilities=["completion", "vision"],
        modified_at=_time(served.started),
    )


def _streamed(kind: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {200: {"content": {_NDJSON: {"schema": schema}}}}


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _now() -> str:
    return _time(time.time())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")
