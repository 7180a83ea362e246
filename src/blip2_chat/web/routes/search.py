"""`POST /v1/search` and `/v1/search/picture`: pictures of the server's index, by words or like another picture."""

from __future__ import annotations

import anyio
from fastapi import APIRouter, Request
from starlette.responses import Response

from ...errors import GenerationError, PictureError
from ...images.naming import file_name
from .. import schemas
from ..disconnect import unless_gone
from ..errors import ApiError, worded
from ..finder import Finder, Query
from ..model_worker import client_of
from ..service import Service
from .bodies import json_body
from .common import ERRORS


def router(service: Service, finder: Finder) -> APIRouter:
    """The routes of a service with an index."""
    routes = APIRouter(prefix="/v1", responses=ERRORS)
    limit = service.settings.time_limit

    @routes.post("/search", summary="Find pictures of the index", openapi_extra=_body(schemas.SearchRequest))
    async def search(request: Request) -> schemas.SearchResponse:
        deadline = anyio.current_time() + limit
        asked = await json_body(request, schemas.SearchRequest)
        work = _found(service, finder, asked, client_of(request))
        return await unless_gone(request, work, deadline - anyio.current_time())

    @routes.post(
        "/search/picture",
        summary="A picture of the index",
        response_class=Response,
        responses={200: {"content": {"image/png": {}, "image/jpeg": {}}}},
        openapi_extra=_body(schemas.IndexedPictureRequest),
    )
    async def picture(request: Request) -> Response:
        deadline = anyio.current_time() + limit
        asked = await json_body(request, schemas.IndexedPictureRequest)
        work = _picture(finder, asked, client_of(request))
        return await unless_gone(request, work, deadline - anyio.current_time())

    return routes


async def _found(
    service: Service, finder: Finder, asked: schemas.SearchRequest, client: str
) -> schemas.SearchResponse:
    given = [name for name in ("text", "like", "picture") if getattr(asked, name) is not None]
    if len(given) != 1:
        raise ApiError(400, "give one of text, like and picture", param=given[1] if given else "text")
    try:
        picture = None
        if asked.picture is not None:
            picture = await service.pictures.open(
                asked.picture, finder.index.retriever.preprocess, client=client
            )
        query = Query(asked.text, picture, asked.like)
        hits = await finder.search(query, asked.top, asked.rerank)
    except GenerationError as error:
        raise ApiError(400, worded(error), param="text") from None
    except PictureError as error:
        if asked.like is not None:
            raise _not_found(error) from None
        raise ApiError(400, worded(error), code="invalid_image", param="picture") from None
    return schemas.SearchResponse(
        model=finder.index.retriever.name,
        data=[
            schemas.SearchEntry(
                id=hit.digest,
                # Where it lies on this machine is no business of clients.
                name=file_name(hit.path),
                similarity=round(hit.similarity, 6),
                probability=None if hit.probability is None else round(hit.probability, 6),
                width=hit.width,
                height=hit.height,
            )
            for hit in hits
        ],
    )


async def _picture(finder: Finder, asked: schemas.IndexedPictureRequest, client: str) -> Response:
    try:
        data, kind = await finder.picture(asked.id, asked.size, client)
    except PictureError as error:
        raise _not_found(error) from None
    return Response(data, media_type=kind)


def _not_found(error: PictureError) -> ApiError:
    told = "has changed since it was indexed" if error.fault == "unreadable" else "is not in the index"
    return ApiError(404, f"this picture {told}", code="picture_not_found", param="id")


def _body(kind: type[schemas.SearchRequest] | type[schemas.IndexedPictureRequest]) -> dict[str, object]:
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
