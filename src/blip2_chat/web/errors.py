"""Errors as the clients of each API expect them.

OpenAI's: {"error": {"message", "type", "param", "code"}}. Ollama's, with paths below /api/: {"error": "message"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from starlette.responses import JSONResponse

from ..errors import Blip2ChatError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}

# Parameters that are called otherwise in requests.
_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "num_answers": "n"}


class ApiError(Exception):
    """An error of a client, or something that the server cannot do now. The message can be shown unchanged."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def body_at(self, path: str) -> dict[str, Any]:
        """As the API at `path` has it."""
        return {"error": self.message} if path.startswith("/api/") else self.body

    def response(self, path: str) -> JSONResponse:
        """The answer to a request for `path`."""
        return JSONResponse(self.body_at(path), self.status, self.headers)


def invalid(faults: Sequence[Mapping[str, Any]]) -> ApiError:
    """One error from pydantic's list of errors in a request."""
    # For alternatives, pydantic reports the errors of each; the deepest one belongs to the alternative that
    # was meant.
    fault = max(faults, key=lambda one: len(one["loc"]))
    if fault["type"] == "json_invalid":
        # The parser's reason contains a position, but no text of the body.
        why = str((fault.get("ctx") or {}).get("error", ""))[:200]
        if "surrogate" in why or "hex escape" in why:
            why += " (a lone surrogate, such as \\ud800, is not a character)"
        told = "the request's body is not valid JSON"
        return ApiError(400, f"{told}: {why}" if why else told, code="invalid_json")
    # Names of alternatives (classes, or "function-..." of them) stand between the fields, a part's kind before the
    # field of that name; only fields are anything to a client.
    fields = [str(one) for one in fault["loc"] if one not in ("body", "str")]
    named = [field for field in fields if field.replace("_", "").isalnum() and not field[0].isupper()]
    place = [field for field, _ in groupby(named)]
    param = ".".join(place) or None
    no_object = fault["type"] in ("model_type", "model_attributes_type")
    message = "Input should be an object" if no_object else str(fault["msg"])
    return ApiError(400, f"{param or 'the body'}: {message}", param=param)


def worded(error: Blip2ChatError) -> str:
    """The error's message, with parameters by the names that requests have for them."""
    return error.worded(lambda parameter: request_name(parameter.name))


def request_name(setting: str) -> str:
    """The field of a request for a parameter of the library: "max_new_tokens" -> "max_tokens"."""
    return _NAMES.get(setting, setting)


def shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down")


def internal_error() -> ApiError:
    """Reveals nothing about the cause, because the text of an exception may contain a user's text."""
    return ApiError(500, "something went wrong in the server; its log says what", code="internal_error")
