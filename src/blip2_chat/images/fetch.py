"""Downloading a picture, with limits on bytes, redirects, retries and total time."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import PictureError
from .limits import PictureLimits
from .naming import one_line, url_name

if TYPE_CHECKING:
    import httpx

_HEADERS = {
    "Accept": "image/*,*/*;q=0.5",
    # Pictures are already compressed, and a response that unpacks to a thousand times its size is an attack.
    "Accept-Encoding": "identity",
    "User-Agent": "blip2-chat (python-httpx)",
}


# Status codes of servers that are busy or restarting, and of proxies in front of them.
_BUSY = frozenset((408, 425, 429, 500, 502, 503, 504))
_FIRST_PAUSE = 0.5


class _TryAgain(Exception):
    """A temporary failure. `after`: the seconds that the server asks to wait, if it does."""

    def __init__(self, told: str, advice: str, name: str, after: float | None = None) -> None:
        super().__init__(told)
        self.told, self.advice, self.name, self.after = told, advice, name, after

    def as_error(self, tries: int) -> PictureError:
        asked = f", and asks to wait {self.after:.0f} seconds" if self.after else ""
        often = f", {tries} times" if tries > 1 else ""
        return PictureError(f"{self.told}{often}{asked}; {self.advice}", name=self.name, fault="download")


def fetch(url: str, limits: PictureLimits) -> bytes:
    """Downloads the body of an http(s) URL: at most `limits.max_bytes` bytes.

    If the server is busy (429, 503 and the like) or the connection breaks, the download is retried after the
    pause that the server asks for, or a growing one of our own.
    Raises PictureError, in one line that names the URL without its query: URLs disabled or refused by
    `limits.check_url` or `limits.check_address`, a name that does not resolve, no connection, an
    answer other than 2xx, too many redirects, too many bytes, or too long a wait.
    """
    name = url_name(url)
    if not limits.allow_urls:
        raise PictureError(
            f"{name}: opening pictures by URL is switched off here; upload the picture instead",
            name=name,
            fault="refused",
        )
    seconds, patience = limits.timeout_seconds, limits.max_wait_seconds
    for tries in itertools.count(1):
        started = time.monotonic()
        try:
            return _try(url, name, seconds, limits)
        except _TryAgain as failure:
            # With jitter; otherwise all threads of a run would retry at the same moment.
            pause = failure.after if failure.after is not None else _FIRST_PAUSE * 2 ** (tries - 1)
            pause *= random.uniform(1.0, 1.25)
            if tries > limits.max_retries or pause > patience:
                raise failure.as_error(tries) from failure.__cause__
        seconds = max(seconds - (time.monotonic() - started), 0.0)
        patience -= pause
        _pause(pause)
    raise AssertionError("counting ends nowhere")


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _try(url: str, name: str, seconds: float, limits: PictureLimits) -> bytes:
    import httpx

    direct = limits.check_address is not None
    watch = _Watchdog(seconds, limits.check_address)
    try:
        with watch, httpx.Client(trust_env=not direct) as client:
            return _follow(client, url, name, limits, watch)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ImportError, OSError, ValueError) as error:
        # Every failure after the deadline is caused by the watchdog, which cuts the connection.
        if watch.expired or isinstance(error, httpx.TimeoutException):
            raise PictureError(
                f"{name} did not arrive within {limits.timeout_seconds:g} seconds; "
                "try again, or download it and open the file",
                name=name,
                fault="download",
            ) from error
        told = f"{name} could not be downloaded ({one_line(str(error)) or type(error).__name__})"
        # The connection was established, then broke.
        if isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)):
            raise _TryAgain(told, "try again later", name) from error
        raise PictureError(f"{told}; check the address", name=name, fault="download") from error


def _follow(client: httpx.Client, url: str, name: str, limits: PictureLimits, watch: _Watchdog) -> bytes:
    for _ in range(limits.max_redirects + 1):
        if not url.lower().startswith(("http://", "https://")):
            raise PictureError(
                f"{name} leads to {url_name(url)}, which is not an http or https address",
                name=name,
                fault="refused",
            )
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
            # Closed unread, so its connection is not reused: each redirect opens one that the watchdog sees.
            response.close()
    raise PictureError(
        f"{name} redirects more than {limits.max_redirects} times; use the address of the picture itself",
        name=name,
        fault="download",
    )


def _body(response: httpx.Response, name: str, limits: PictureLimits, watch: _Watchdog) -> bytes:
    if not response.is_success:
        raise _refused(response, name)
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise PictureError(
            f"{name} came compressed though asked not to be; download it and open the file",
            name=name,
            fault="download",
        )
    length = response.headers.get("content-length", "")
    if length.isdecimal():
        limits.require_bytes(int(length), name)
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        limits.require_bytes(len(body), name)
    # A body without a declared length ends when the connection closes: make sure the server closed it.
    watch.remaining()
    return bytes(body)


def _refused(response: httpx.Response, name: str) -> _TryAgain | PictureError:
    """The error for a status other than 2xx; a `_TryAgain` if it may be temporary."""
    status = response.status_code
    told = f"{name} answered {one_line(f'{status} {response.reason_phrase}')}"
    if status in _BUSY:
        advice = (
            "try again later, with fewer at once"
            if status == 429
            else "the server is in trouble: try again later"
        )
        return _TryAgain(told, advice, name, _seconds(response.headers.get("retry-after", "")))
    if status in (401, 402, 403, 407, 451):
        return PictureError(
            f"{told}: it is not given to everyone; download it in a browser and open the file",
            name=name,
            fault="download",
        )
    return PictureError(f"{told}; check the address", name=name, fault="download")


def _seconds(retry_after: str) -> float | None:
    """Retry-After in seconds, from a number of seconds or a date."""
    text = retry_after.strip()
    if text.isdecimal() and text.isascii():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


class _Watchdog:
    """Ends a download at its deadline, whatever state it is in.

    httpx's timeouts are per read, so a server that drips one byte at a time, in the header or in the
    body, would hold the caller for days. The watchdog learns each connection's socket through httpx's
    `trace` extension and shuts it down from a timer thread; the blocked read then fails at once.
    Shutting down (rather than closing) is safe from another thread, because the reader keeps its descriptor.
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
        """httpx's trace callback: records the socket of each new connection and checks its address."""
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
            # The pool does not own the connection yet, so nothing else would close it.
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
