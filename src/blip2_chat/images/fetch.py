"""Downloading a picture: one GET with a cap on bytes, on redirects and on the whole time it takes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import PictureError
from .limits import PictureLimits
from .naming import one_line, url_name

if TYPE_CHECKING:
    import httpx

_HEADERS = {
    "Accept": "image/*,*/*;q=0.5",
    # Pictures are compressed already, and an answer that unpacks to a thousand times its size is an attack.
    "Accept-Encoding": "identity",
    "User-Agent": "blip2-chat (python-httpx)",
}


def fetch(url: str, limits: PictureLimits) -> bytes:
    """The body behind an http(s) URL: at most `limits.max_bytes` bytes.

    Raises PictureError, in one line that names the URL without its query: URLs switched off or refused
    by `limits.check_url` or `limits.check_address`, a name that does not resolve, no connection, an
    answer other than 2xx, too many redirects, too many bytes, or too long a wait.
    """
    import httpx

    name = url_name(url)
    if not limits.allow_urls:
        raise PictureError(
            f"{name}: opening pictures by URL is switched off here; upload the picture instead"
        )
    direct = limits.check_address is not None
    watch = _Watchdog(limits.timeout_seconds, limits.check_address)
    try:
        with watch, httpx.Client(trust_env=not direct) as client:
            return _follow(client, url, name, limits, watch)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ImportError, OSError, ValueError) as error:
        # Every failure after the deadline is the deadline's doing: the watchdog cuts the connection.
        if watch.expired or isinstance(error, httpx.TimeoutException):
            raise PictureError(
                f"{name} did not arrive within {limits.timeout_seconds:g} seconds; "
                "try again, or download it and open the file"
            ) from error
        reason = one_line(str(error)) or type(error).__name__
        raise PictureError(f"{name} could not be downloaded ({reason}); check the address") from error


def _follow(client: httpx.Client, url: str, name: str, limits: PictureLimits, watch: _Watchdog) -> bytes:
    for _ in range(limits.max_redirects + 1):
        if not url.lower().startswith(("http://", "https://")):
            raise PictureError(f"{name} leads to {url_name(url)}, which is not an http or https address")
        if limits.check_url is not None:
            limits.check_url(url)
        request = client.build_request(
            "GET", url, headers=_HEADERS, timeout=watch.remaining(), extensions={"trace": watch.trace}
        )
        response = client.send(request, stream=True)
        try:
            if response.next_request is None:
                return _body(response, name, limits, watch)
            url = str(response.next_request.url)
        finally:
            # Closed unread, its connection is not reused: each hop opens one the watchdog sees.
            response.close()
    raise PictureError(
        f"{name} redirects more than {limits.max_redirects} times; use the address of the picture itself"
    )


def _body(response: httpx.Response, name: str, limits: PictureLimits, watch: _Watchdog) -> bytes:
    if not response.is_success:
        answer = one_line(f"{response.status_code} {response.reason_phrase}")
        raise PictureError(f"{name} answered {answer}; check the address")
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise PictureError(f"{name} came compressed though asked not to be; download it and open the file")
    length = response.headers.get("content-length", "")
    if length.isdecimal():
        limits.require_bytes(int(length), name)
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        limits.require_bytes(len(body), name)
    # A cut connection is how a body without a declared length ends: make sure it was the server's cut.
    watch.remaining()
    return bytes(body)


class _Watchdog:
    """Ends a download at its deadline, whatever it is doing.

    httpx's timeouts are per read, so a server that drips one byte at a time, in the header or in the
    body, would hold the caller for days. The watchdog learns each connection's socket through httpx's
    `trace` extension and shuts it down from a timer thread; the blocked read then fails at once.
    Shutting down (rather than closing) is safe from another thread: the descriptor stays the reader's.
    """

    def __init__(self, seconds: float, check_address: Callable[[str], None] | None) -> None:
        self._deadline = time.monotonic() + seconds
        self._check_address = check_address
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(max(seconds, 0.0), self._cut)
        self._timer.daemon = True
        self.expired = False

    def __enter__(self) -> _Watchdog:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def remaining(self) -> float:
        """Seconds left; raises TimeoutError when there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0 or self.expired:
            self.expired = True
            raise TimeoutError
        return left

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpx's trace callback: note the socket of each new connection and check where it leads."""
        if event not in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            return
        stream = info["return_value"]
        with self._lock:
            self._socket = stream.get_extra_info("socket")
            late = self.expired
        try:
            if late:
                raise TimeoutError
            if self._check_address is not None and event == "connection.connect_tcp.complete":
                self._check_address(str(stream.get_extra_info("server_addr")[0]))
        except BaseException:
            # The pool does not own the connection yet, so nobody else would close it.
            stream.close()
            raise

    def _cut(self) -> None:
        with self._lock:
            self.expired = True
            if self._socket is not None:
                # The plain socket's shutdown: ssl's own would first turn the stream into plain text under
                # the reader. An error means either side closed it already: nothing is left to wait for.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
