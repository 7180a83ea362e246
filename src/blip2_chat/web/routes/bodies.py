"""JSON bodies -> requests. Large ones, with megabytes of base64 pictures, are parsed in a thread."""

from __future__ import annotations

from typing import Any, TypeVar

import anyio
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from ..errors import ApiError, invalid

Asked = TypeVar("Asked", bound=BaseModel)

# Parsing less than this takes no longer than passing it to a thread.
_LARGE = 64 * 1024


async def json_body(request: Request, kind: type[Asked], any_type: bool = False) -> Asked:
    """The body of a request as `kind`; 415 for another content type unless `any_type`, 400 for invalid content.

    pydantic's own parser, unlike `json`, refuses lone surrogates ("\\ud800"), which no text may contain and which
    cannot be encoded in an answer.
    """
    main, _, sub = request.headers.get("content-type", "").partition(";")[0].strip().lower().partition("/")
    if not any_type and (main != "application" or not (sub == "json" or sub.endswith("+json"))):
        raise ApiError(415, "send JSON, with the header Content-Type: application/json")
    body = await request.body()
    if len(body) < _LARGE:
        return validated(kind, body)
    return await anyio.to_thread.run_sync(validated, kind, body)


def validated(kind: type[Asked], given: bytes | dict[str, Any]) -> Asked:
    """A 400 with the reason."""
    try:
        if isinstance(given, bytes):
            return kind.model_validate_json(given)
        return kind.model_validate(given)
    except ValidationError as error:
        # Without the input, which may be megabytes.
        raise invalid(error.errors(include_input=False, include_url=False)) from None


def body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """What FastAPI, which does not see what `json_body` parses, is to write into the OpenAPI document; `app.py` adds
    the schema that it names."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
