"""The files of the page: read once from the package, and served from memory under fixed names."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

_KINDS = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "manifest.webmanifest": "application/manifest+json",
}
_SCRIPT = "text/javascript; charset=utf-8"


Page = dict[str, tuple[bytes, str]]


def load(samples: bool = False) -> Page:
    """Path -> content and type. The path of a request is looked up here, and never used as a path on disk.

    `samples`: include the embedded model's sample pictures, under /samples/.
    """
    folder = files("blip2_chat.web") / "page"
    found: Page = {}
    for entry in folder.iterdir():
        kind = _KINDS.get(entry.name) or (_SCRIPT if entry.name.endswith(".js") else None)
        if kind is not None:
            found["/" if entry.name == "index.html" else f"/{entry.name}"] = (entry.read_bytes(), kind)
    drawn = files("blip2_chat") / "demo" / "samples"
    if samples and drawn.is_dir():
        pictures = sorted(entry.name for entry in drawn.iterdir() if entry.name.endswith(".png"))
        found |= {f"/samples/{name}": ((drawn / name).read_bytes(), "image/png") for name in pictures}
    return found


def router(page: Page) -> APIRouter:
    """One route per file."""
    routes = APIRouter(include_in_schema=False)
    for path, (content, kind) in page.items():
        routes.add_api_route(path, _served(content, kind), methods=["GET", "HEAD"])
    return routes


def _served(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return serve
