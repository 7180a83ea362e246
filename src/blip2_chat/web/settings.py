"""The limits of a server."""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """The limits of a server. The defaults suit a small machine and untrusted clients.

    slots: sequences generated at the same time; also the maximum of `n` or beams of a request.
    queue: requests that may wait in addition; further ones get a 429.
    max_body_bytes: of one request; the bodies of all current requests together: `max_held_bytes`.
    max_tokens: of one answer; larger requests are reduced to this.
    max_text: characters of all messages of a request.
    pixels_option: see `PictureLimits`: how the operator of the server can change `max_pixels`.
    read_off_seconds: how long a refused body is still read, because clients read an answer only after sending.
    time_limit: seconds from the arrival of a request to the end of its answer.
    allowed_hosts: accepted `Host` headers, lower case, without port; empty: any.
    allowed_origins: sites whose pages may use the API, lower case: "https://app.example"; "*" is every site.
    """

    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allow_urls: bool = False
    slots: int = 8
    queue: int = 64
    max_body_bytes: int = 32 * MIB
    max_held_bytes: int = 256 * MIB
    max_picture_bytes: int = 20 * MIB
    max_pixels: int = 40_000_000
    pixels_option: str = ""
    max_pictures: int = 16
    max_tokens: int = 256
    max_messages: int = 256
    max_text: int = 32_768
    time_limit: float = 120.0
    read_off_seconds: float = 5.0
    log_text: bool = False
