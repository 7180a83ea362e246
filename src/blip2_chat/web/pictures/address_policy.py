"""From which addresses a picture may be fetched: only the public internet.

Without this rule, a client could make the server read what only the server can reach: a router's page, a
database, the metadata service of a cloud (server-side request forgery).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from ...errors import PictureError
from ...images import PictureLimits
from ...images.fetch import fetch
from ...images.naming import url_name
from ...images.public_addresses import is_public
from ..settings import Settings

Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host from the system's resolver, which also understands 127.1, 0x7f000001 and the
    like."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class _Rebound(PictureError):
    """A connection to another address than the name had a moment before."""


def download(url: str, limits: PictureLimits) -> bytes:
    """Downloads a picture from an http(s) URL. Raises `PictureError`.

    Every connection failure, including a refused address, has the same message, so that the server cannot be
    used to probe its network.
    """
    try:
        return fetch(url, limits)
    except PictureError as error:
        if isinstance(error, _Rebound) or error.__cause__ is not None:
            raise PictureError(
                f"{url_name(url)} could not be downloaded; check the address",
                name=url_name(url),
                fault="download",
            ) from None
        raise


def picture_limits(
    settings: Settings, resolve: Resolve = resolve, allowed: Callable[[str], bool] = is_public
) -> PictureLimits:
    """The limits on pictures in requests. `resolve` and `allowed` look up and judge addresses."""

    def check_url(url: str) -> None:
        # Before any connection, and again at every redirect.
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or (443 if parts.scheme.lower() == "https" else 80)
            addresses = resolve(host or "", port)
        except (ValueError, OSError, UnicodeError):
            raise PictureError(
                f"{url_name(url)} could not be downloaded; check the address",
                name=url_name(url),
                fault="download",
            ) from None
        if not addresses or not all(map(allowed, addresses)):
            raise PictureError(
                f"{url_name(url)} leads to an address that is not on the public internet; "
                "send the picture itself as a data: URL",
                name=url_name(url),
                fault="refused",
            )

    def check_address(address: str) -> None:
        # The address of the connection itself, because the name may resolve differently now (DNS rebinding).
        if not allowed(address):
            raise _Rebound(f"{address} is not on the public internet", name=address, fault="refused")

    return PictureLimits(
        max_bytes=settings.max_picture_bytes,
        max_pixels=settings.max_pixels,
        pixels_option=settings.pixels_option,
        timeout_seconds=min(10.0, settings.time_limit),
        # A client waits for the answer, and others wait for the thread.
        max_wait_seconds=2.0,
        max_redirects=3,
        allow_urls=settings.allow_urls,
        allow_paths=False,
        check_url=check_url,
        check_address=check_address,
    )
