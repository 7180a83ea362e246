"""How large a picture may be, how long it may take to arrive, and where it may come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import PictureError


@dataclass(frozen=True)
class PictureLimits:
    """What `open_picture` accepts. The defaults suit a person at their own machine.

    max_bytes: encoded size of a file, download, data URL or file object.
    max_pixels: width x height, read from the header before anything is decoded. Pillow keeps a bomb
        guard of its own (`PIL.Image.MAX_IMAGE_PIXELS`, an error past about 179 million pixels), which
        stays as it is: to go beyond it, raise both.
    timeout_seconds: the whole download with its redirects, from connecting to the last byte. The
        system's own name lookup cannot be interrupted and is bounded by the system.
    max_redirects: hops after the first URL.
    allow_urls, allow_paths: a server that takes text from strangers turns paths off. `data:` URLs,
        bytes and open files are neither.
    check_url: called with the first URL and with the target of every redirect, before a connection
        is made; it refuses by raising `PictureError`.
    check_address: called with the IP address of every connection, before a byte of the request is
        sent; it refuses by raising `PictureError`. A name can resolve to one address when a policy
        looks it up and to another when the connection is made; this sees the address in use. Proxies
        from the environment are not used while it is set, since it would only see the proxy.
    """

    max_bytes: int = 50 * 1024 * 1024
    max_pixels: int = 100_000_000
    timeout_seconds: float = 20.0
    max_redirects: int = 5
    allow_urls: bool = True
    allow_paths: bool = True
    check_url: Callable[[str], None] | None = None
    check_address: Callable[[str], None] | None = None

    def require_bytes(self, count: int, name: str) -> None:
        """Raise `PictureError` if `count` encoded bytes are too many."""
        if count > self.max_bytes:
            raise PictureError(
                f"{name} is larger than the limit of {_mebibytes(self.max_bytes)}; "
                "save a smaller copy and use that"
            )

    def require_pixels(self, width: int, height: int, name: str) -> None:
        """Raise `PictureError` if a picture of this size has no pixels or too many."""
        if width < 1 or height < 1:
            raise PictureError(f"{name} has no pixels ({width} x {height}); choose another picture")
        if width * height > self.max_pixels:
            raise PictureError(
                f"{name} has {width} x {height} pixels, more than the limit of {self.max_pixels:,}; "
                "save a smaller copy and use that"
            )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.3g} MiB" if count >= 2**20 else f"{count:,} bytes"
