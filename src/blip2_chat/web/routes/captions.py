"""`POST /v1/caption`: many pictures at once, as JSON or a form; an invalid one is an error in its own entry."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import anyio
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from ...generation.rows import End, Task
from ...images.naming import file_name
from .. import schemas
from ..disconnect import unless_gone
from ..errors import ApiError
from ..model_worker import Served, client_of
from ..scheduler import Ticket
from ..service import Service
from .bodies import json_body, validated
from .common import ERRORS, advice, reason

_FILES = "pictures"


class _Form(schemas.Writing):
    """The fields of a form, all of them text."""

    model_config = ConfigDict(strict=False)
    start: str = schemas.CaptionRequest.model_fields["start"].default
    model: str | None = None


class _InMemory(MultiPartParser):
    """Starlette's parser writes files above 1 MB to disk; requests here are small enough for memory."""

    spool_max_size = 2**62


@dataclass
class _Given:
    """The common form of both kinds of request."""

    sources: list[tuple[str | bytes, str]]  # a URL or a file's bytes, and a name
    writing: schemas.Writing
    start: str
    model: str | None


def router(service: Service) -> APIRouter:
    """The route of a service."""
    routes = APIRouter(prefix="/v1", responses=ERRORS)

    @routes.post("/caption", summary="Describe pictures", openapi_extra={"requestBody": _request_body()})
    async def caption(request: Request) -> schemas.CaptionResponse:
        deadline = anyio.current_time() + service.settings.time_limit
        given = await _given(request, service.settings.max_pictures)
        work = _captioned(service, request, given)
        return await unless_gone(request, work, deadline - anyio.current_time())

    return routes


async def _given(request: Request, most: int) -> _Given:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        asked = await json_body(request, schemas.CaptionRequest)
        given = _Given([(url, "") for url in asked.pictures], asked, asked.start, asked.model)
    elif kind == "multipart/form-data":
        given = await _from_form(request, most)
    else:
        raise ApiError(415, "send application/json, or multipart/form-data with files named 'pictures'")
    if not given.sources:
        raise ApiError(400, "there is no picture: add files named 'pictures'", param=_FILES)
    if len(given.sources) > most:
        raise ApiError(400, f"{len(given.sources)} pictures; this server allows {most}", param=_FILES)
    return given


async def _from_form(request: Request, most: int) -> _Given:
    form = await _form(request, most)
    try:
        files = [entry for entry in form.getlist(_FILES) if isinstance(entry, UploadFile)]
        sources: list[tuple[str | bytes, str]] = [
            (await file.read(), file_name(file.filename or "")) for file in files
        ]
        fields: dict[str, Any] = {name: value for name, value in form.items() if isinstance(value, str)}
        if "stop" in fields:
            fields["stop"] = form.getlist("stop")
    finally:
        await form.close()
    _require_text(fields, [name for _, name in sources])
    about = validated(_Form, fields)
    return _Given(sources, about, about.start, about.model)


def _require_text(fields: dict[str, Any], names: list[str]) -> None:
    """A 400 for lone surrogates, which some charsets (such as UTF-7) can contain."""
    for value in (*fields, *(one for field in fields.values() for one in _listed(field)), *names):
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise ApiError(400, "the form has text that is not valid Unicode") from None


def _listed(field: Any) -> list[Any]:
    return field if isinstance(field, list) else [field]


async def _form(request: Request, most: int) -> FormData:
    async def body() -> AsyncGenerator[bytes, None]:
        yield await request.body()

    parser = _InMemory(Headers(scope=request.scope), body(), max_files=most, max_fields=64)
    try:
        return await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        what = error.message if isinstance(error, MultiPartException) else "it cannot be read"
        raise ApiError(400, f"the form is not valid: {what}") from None


async def _captioned(service: Service, request: Request, given: _Given) -> schemas.CaptionResponse:
    served = service.served(given.model)
    decoding = served.decoding(given.writing, given.writing.max_tokens)
    template, tokenizer = served.model.template, served.model.tokenizer
    start = " ".join((given.start or "").split()) or None
    text = template.caption if start is None else start
    tokens = tokenizer.encode(text)
    budget = served.model.prompt_budget(decoding)
    if len(tokens) > budget:
        raise ApiError(400, f"start is {len(tokens)} tokens; {max(budget, 0)} fit", param="start")
    stop = (*template.stop, *decoding.stop)
    task = Task(tokens, decoding, stop, instruction=tokenizer.instruction(text))
    entries: dict[int, schemas.CaptionEntry] = {}
    faults: list[ApiError] = []
    written: list[tuple[Ticket, list[End]]] = []
    # No more at a time than there are slots; the others wait as bytes, not as pixels.
    places = anyio.Semaphore(service.settings.slots)

    async def describe(index: int, source: str | bytes, name: str) -> None:
        async with places:
            try:
                one = (index, source, name)
                entries[index] = await _entry(
                    service, served, request, one, task, template.begun(start), written
                )
            except ApiError as error:
                faults.append(error)
                wrong = schemas.CaptionError(message=error.message)
                entries[index] = schemas.CaptionEntry(index=index, name=name or "picture", error=wrong)

    async with anyio.create_task_group() as tasks:
        for index, (source, name) in enumerate(given.sources):
            tasks.start_soon(describe, index, source, name)
    # An invalid picture fails only its own entry, but a shutdown fails the whole request.
    grave = [fault for fault in faults if not written or fault.code != "invalid_image"]
    if grave:
        raise grave[0]
    return schemas.CaptionResponse(
        model=served.id,
        data=[entries[index] for index in range(len(given.sources))],
        usage=served.usage(written),
    )


async def _entry(
    service: Service,
    served: Served,
    request: Request,
    given: tuple[int, str | bytes, str],
    task: Task,
    start: str,
    written: list[tuple[Ticket, list[End]]],
) -> schemas.CaptionEntry:
    index, source, name = given
    picture = await served.open(source, name, client_of(request))
    ticket = served.submit(picture, task, request)
    try:
        ends = [event async for event in ticket if isinstance(event, End)]
    finally:
        served.scheduler.cancel(ticket)
    written.append((ticket, ends))
    service.finish(served, ticket, ends, start)
    end = ends[0]
    return schemas.CaptionEntry(
        index=index,
        name=picture.name,
        # The answer continues `start`, which is part of the caption.
        caption=f"{start} {end.text}".strip(),
        finish_reason=reason(end),
        score=round(end.result.score, 4),
        advice=advice(picture),
    )


def _request_body() -> dict[str, Any]:
    """The two kinds of request, for the OpenAPI document."""
    form = _inlined(_Form)
    form["properties"] = {
        _FILES: {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "minItems": 1,
            "description": "Picture files, one part each.",
        },
        **form["properties"],
    }
    form["required"] = [_FILES]
    return {
        "required": True,
        "content": {
            "application/json": {"schema": _inlined(schemas.CaptionRequest)},
            "multipart/form-data": {"schema": form},
        },
    }


def _inlined(kind: type[BaseModel]) -> dict[str, Any]:
    return kind.model_json_schema(ref_template="#/components/schemas/{model}")
