"""Common parts of the routes."""

from __future__ import annotations

from typing import Any, Literal

from ...generation.rows import End
from ...images import PreparedPicture
from .. import schemas
from ..answering import Told

# Responses of every route, for the OpenAPI document.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorResponse}
    for status in (400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504)
}


def advice(picture: PreparedPicture) -> list[schemas.AdviceEntry]:
    return [schemas.AdviceEntry(kind=one.kind, message=one.message) for one in picture.advice]


def about(told: Told) -> schemas.About:
    """What OpenAI's formats have no place for."""
    return schemas.About(
        picture=told.picture.digest,
        advice=advice(told.picture),
        dropped_turns=told.dropped_turns,
        choices=told.choices or None,
        attribution=told.attribution,
    )


def reason(end: End) -> Literal["stop", "length"]:
    """Why an answer ended, in the words of the APIs."""
    return "length" if end.result.finish_reason == "length" else "stop"
