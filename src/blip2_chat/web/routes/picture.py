"""`POST /v1/picture`: downloads a picture for the page, which may not load anything from other sites."""

from __future__ import annotations

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response

from ...errors import PictureError
from ...images import HEAD_BYTES, begins_like_picture
from ...images.naming import url_name
from .. import schemas
from ..disconnect import unless_gone
from ..errors import ApiError, worded
from ..model_worker import client_of
from ..service import Service
from .bodies import json_body
from .common import ERRORS


def router(service: Service) -> APIRouter:
    """The route of a service."""
    routes = APIRouter(prefix="/v1", responses=ERRORS)

    @routes.post(
        "/picture",
        summary="Fetch a picture from an address",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": schemas.AddressRequest.model_json_schema()}},
            }
        },
    )
    async def picture(request: Request) -> Response:
        deadline = anyio.current_time() + service.settings.time_limit
        asked = await json_body(request, schemas.AddressRequest)
        work = _fetched(service, asked.url.strip(), client_of(request))
        data = await unless_gone(request, work, deadline - anyio.current_time())
        return Response(data, media_type="application/octet-stream")

    return routes


async def _fetched(service: Service, url: str, client: str) -> bytes:
    if url[:7].lower() not in ("http://", "https:/"):
        raise ApiError(400, "the address must begin with http:// or https://", param="url")
    try:
        data = await service.pictures.fetch(url, client)
    except PictureError as error:
        raise ApiError(400, worded(error), code="invalid_image") from None
    # Only pictures, so that the server cannot be used to read other pages.
    if not begins_like_picture(data[:HEAD_BYTES]):
        raise ApiError(400, f"{url_name(url)} is not a picture", code="invalid_image")
    return data
