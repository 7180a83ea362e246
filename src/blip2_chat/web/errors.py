"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """What a client did wrong, or what the server cannot do now. The message is fit to show as it is."""

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

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def invalid(faults: Sequence[Mapping[str, Any]]) -> ApiError:
    """pydantic's findings about a request, the first of them said."""
    first = faults[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "the request's body is not valid JSON", code="invalid_json")
    # Names of alternatives that pydantic tried stand between the fields; only fields are anything to a client.
    place = [str(one) for one in first["loc"] if one != "body"]
    param = ".".join(one for one in place if one.replace("_", "").isalnum()) or None
    message = str(first["msg"])
    return ApiError(400, f"{param}: {message}" if param else message, param=param)


def internal_error() -> ApiError:
    """Says nothing of what happened inside: an exception's text may hold a user's words."""
    return ApiError(500, "something went wrong in the server; its log says what", code="internal_error")
