"""How large a picture may be, how long it may take to arrive, and where it may come from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import PictureError
from ..sizes import mebibytes

# Passes allowed over a JPEG of `max_pixels`, or of `_FEW_PIXELS` where the limit is lower; a smaller JPEG may have
# more.
_PASSES = 16
_FEW_PIXELS = 4_000_000


@dataclass(frozen=True)
class PictureLimits:
    """What `open_picture` accepts. The defaults suit a person at their own machine.

    max_bytes: encoded size of a file, download, data URL or file object.
    max_pixels: width x height, read from the header before anything is decoded. A JPEG of more than 40
        million is decoded at a reduced size, and takes the memory of that.
    pixels_option: how a message about too many pixels names the option to raise, with {pixels} and {megapixels}
    for what the picture needs; empty if the reader of the message cannot raise it.
    max_side: width or height, because memory depends on rows as well as on pixels.
    max_scans: passes over a JPEG. A progressive one has about 10; a hostile one has thousands, each as slow as
    the first.
    timeout_seconds: the whole download with its redirects, from connecting to the last byte, all tries
        together. The system's name lookup cannot be interrupted, but has a time limit of its own.
    max_retries, max_wait_seconds: number of retries after a busy server or a broken connection, and the maximum
    of all pauses together. If a server asks for a longer pause, there is no retry.
    max_redirects: hops after the first URL.
    allow_urls, allow_paths: a server that accepts text from strangers disables paths. `data:` URLs, bytes and
    open files are always allowed.
    check_url: called with the first URL and with the target of every redirect, before a connection
        is made; it refuses by raising `PictureError`.
    check_address: called with the IP address of every connection, before a byte of the request is
        sent; it refuses by raising `PictureError`. A name can resolve to one address when a policy
        looks it up and to another when the connection is made; this sees the address in use. Proxies
        from the environment are not used while it is set, since it would only see the proxy.
    """

    max_bytes: int = 50 * 1024 * 1024
    max_pixels: int = 100_000_000
    pixels_option: str = "PictureLimits(max_pixels={pixels})"
    max_side: int = 200_000
    max_scans: int = 100
    timeout_seconds: float = 20.0
    max_retries: int = 3
    max_wait_seconds: float = 30.0
    max_redirects: int = 5
    allow_urls: bool = True
    allow_paths: bool = True
    check_url: Callable[[str], None] | None = None
    check_address: Callable[[str], None] | None = None

    def require_bytes(self, count: int, name: str) -> None:
        """Raise `PictureError` if `count` encoded bytes are too many."""
        if count > self.max_bytes:
            raise PictureError(
                f"{name} is larger than the limit of {mebibytes(self.max_bytes)}; "
                "save a smaller copy and use that",
                name=name,
                fault="too large",
            )

    def require_pixels(self, width: int, height: int, name: str, share: float = 1) -> None:
        """Raise `PictureError` if a picture of this size has no pixels, or more than this share of the most."""
        if width < 1 or height < 1:
            raise PictureError(
                f"{name} has no pixels ({width} x {height}); choose another picture",
                name=name,
                fault="unsupported",
            )
        if max(width, height) > self.max_side:
            raise PictureError(
                f"{name} has {width} x {height} pixels, more than {self.max_side:,} in one direction; "
                "cut it into pieces, or save a smaller copy and use that",
                name=name,
                fault="too large",
            )
        pixels = width * height
        most = int(self.max_pixels * share)
        if pixels > most:
            # Rounded up, or the picture would still be too large for what the message says.
            needed = math.ceil(pixels / share)
            option = self.pixels_option.format(pixels=needed, megapixels=-(-needed // 1_000_000))
            raise PictureError(
                f"{name} has {width} x {height} pixels, more than the limit of {most:,}; "
                + (f"raise the limit with {option}, or " if option else "")
                + "save a smaller copy and use that",
                name=name,
                fault="too large",
            )

    def require_work(self, scans: int, pixels: int, name: str) -> None:
        """Raise `PictureError` if a JPEG makes too many passes, or decodes too many `pixels` in all of them."""
        if scans > self.max_scans or pixels > _PASSES * max(self.max_pixels, _FEW_PIXELS):
            raise PictureError(
                f"{name} is a progressive JPEG of {scans:,} scans, which would take too long to decode; "
                "save it again in another program and use that",
                name=name,
                fault="too large",
            )
