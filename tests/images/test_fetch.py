"""Pictures by URL, from a real HTTP server on loopback: limits hold and nothing secret is shown."""

from __future__ import annotations

import gc
import io
import select
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

import numpy as np
import pytest
from PIL import Image

from blip2_chat.errors import PictureError
from blip2_chat.images import PictureLimits, open_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="u1")
_stream = io.BytesIO()
Image.fromarray(PIXELS).save(_stream, "PNG")
PNG = _stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[dict[str, str]] = []  # noqa: RUF012
    failures: dict[str, int] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.seen.append(dict(self.headers))
        if path == "/cat.png":
            self.answer(200, {"Content-Length": str(len(PNG))}, PNG)
        elif path.startswith("/hop/"):
            left = int(path.rpartition("/")[2])
            target = f"/hop/{left - 1}" if left > 1 else "/cat.png"
            self.answer(302, {"Location": target, "Content-Length": "0"})
        elif path == "/to-file":
            self.answer(302, {"Location": "file:///etc/passwd", "Content-Length": "0"})
        elif path == "/to-nonsense":
            self.answer(302, {"Location": "http://[", "Content-Length": "0"})
        elif path == "/loop":
            self.answer(301, {"Location": "/loop", "Content-Length": "0"})
        elif path == "/liar":
            self.answer(200, {"Content-Length": str(10**12)})
        elif path == "/endless":
            self.answer(200, {"Connection": "close"})
            try:
                while True:
                    self.wfile.write(bytes(1000))
            except OSError:
                self.close_connection = True
        elif path.startswith("/busy/"):
            self.busy(*path.split("/")[2:])
        elif path == "/short":
            self.answer(200, {"Content-Length": str(len(PNG))}, PNG[:50])
            self.close_connection = True
        elif path == "/gzip":
            self.answer(200, {"Content-Length": "3", "Content-Encoding": "gzip"}, b"abc")
        elif path == "/page":
            self.answer(200, {"Content-Length": "15"}, b"<!doctype html>")
        else:
            self.answer(404, {"Content-Length": "0"})

    def busy(self, status: str, times: str, retry_after: str = "") -> None:
        """The picture, but only after so many failures; status 0 breaks the connection off in the middle."""
        if self.failures.setdefault(self.path, 0) >= int(times):
            self.answer(200, {"Content-Length": str(len(PNG))}, PNG)
            return
        self.failures[self.path] += 1
        if status == "0":
            self.answer(200, {"Content-Length": str(len(PNG))}, PNG[:50])
            self.close_connection = True
        elif status == "1":
            self.close_connection = True
        else:
            headers = {
                "Content-Length": "0",
                **({"Retry-After": unquote(retry_after)} if retry_after else {}),
            }
            self.answer(int(status), headers)

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which are noted and not made."""
    made: list[float] = []
    monkeypatch.setattr("blip2_chat.images.fetch._pause", made.append)
    Handler.failures.clear()
    return made


def refusal(url: str, limits: PictureLimits | None = None) -> str:
    with pytest.raises(PictureError) as caught:
        open_picture(url, limits=limits or PictureLimits(timeout_seconds=60))
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    return message


def test_picture_by_url(site: str) -> None:
    picture = open_picture(f"{site}/cat.png")
    assert np.array_equal(np.asarray(picture.image), PIXELS)
    assert picture.name == f"{site}/cat.png"


def test_scheme_in_capitals(site: str) -> None:
    assert np.array_equal(np.asarray(open_picture(site.replace("http", "HTTP") + "/cat.png").image), PIXELS)


def test_secrets_in_a_url_are_shown_nowhere(site: str) -> None:
    secret = site.replace("http://", "http://me:hunter2@")
    assert open_picture(f"{secret}/cat.png?token=abc#f").name == f"{site}/cat.png"
    message = refusal(f"{secret}/none?token=abc")
    assert message.startswith(f"{site}/none answered 404")
    assert "hunter2" not in message and "abc" not in message


def test_compression_is_not_asked_for(site: str) -> None:
    Handler.seen.clear()
    open_picture(f"{site}/cat.png")
    assert Handler.seen[0]["Accept-Encoding"] == "identity"
    assert "compressed" in refusal(f"{site}/gzip")


def test_redirects_are_followed_up_to_the_limit(site: str) -> None:
    assert np.array_equal(np.asarray(open_picture(f"{site}/hop/5").image), PIXELS)
    assert "more than 5 times" in refusal(f"{site}/hop/6")
    assert "more than 5 times" in refusal(f"{site}/loop")
    assert "more than 0 times" in refusal(f"{site}/hop/1", PictureLimits(max_redirects=0))


def test_redirect_out_of_http_is_refused(site: str) -> None:
    assert "not an http or https address" in refusal(f"{site}/to-file")
    assert "could not be downloaded" in refusal(f"{site}/to-nonsense")


def test_bytes_are_limited_by_header_and_by_count(site: str) -> None:
    limits = PictureLimits(max_bytes=100_000, timeout_seconds=60)
    assert "larger than the limit" in refusal(f"{site}/liar", limits)
    assert "larger than the limit" in refusal(f"{site}/endless", limits)


def test_cut_connection_and_web_page(site: str) -> None:
    assert "could not be downloaded" in refusal(f"{site}/short")
    assert "web page" in refusal(f"{site}/page")


@pytest.mark.parametrize("status", [429, 503, 500, 502, 504, 408, 0, 1])
def test_temporary_failures_are_retried(site: str, pauses: list[float], status: int) -> None:
    picture = open_picture(f"{site}/busy/{status}/2")
    assert np.array_equal(np.asarray(picture.image), PIXELS)
    assert len(pauses) == 2 and 0 < pauses[0] < pauses[1]


def test_the_server_says_how_long_to_wait(site: str, pauses: list[float]) -> None:
    open_picture(f"{site}/busy/429/1/7")
    assert 7 <= pauses.pop() < 10
    open_picture(f"{site}/busy/503/1/" + quote(formatdate(time.time() + 12, usegmt=True)))
    assert 5 < pauses.pop() < 16
    open_picture(f"{site}/busy/503/1/soon")
    assert 0 < pauses.pop() < 1


def test_a_wait_that_is_too_long_is_not_begun(site: str, pauses: list[float]) -> None:
    message = refusal(f"{site}/busy/429/1/3600")
    assert "answered 429 Too Many Requests, and asks to wait 3600 seconds; try again later" in message
    assert pauses == []
    assert "check the address" not in message


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("busy/429/9", "answered 429 Too Many Requests, 4 times; try again later, with fewer"),
        ("busy/503/9", "answered 503 Service Unavailable, 4 times; the server is in trouble"),
        ("busy/0/9", "4 times; try again later"),
        ("busy/1/9", "4 times; try again later"),
        ("busy/403/9", "answered 403 Forbidden: it is not given to everyone; download it in a browser"),
        ("busy/404/9", "answered 404 Not Found; check the address"),
        ("busy/410/9", "answered 410 Gone; check the address"),
    ],
)
def test_tries_end_and_the_advice_fits(site: str, pauses: list[float], path: str, says: str) -> None:
    assert says in refusal(f"{site}/{path}")
    assert len(pauses) == (3 if "4 times" in says else 0)


def test_tries_can_be_switched_off(site: str, pauses: list[float]) -> None:
    assert "answered 503 Service Unavailable; " in refusal(f"{site}/busy/503/1", PictureLimits(max_retries=0))
    assert "answered 503" in refusal(f"{site}/busy/503/9", PictureLimits(max_wait_seconds=0))
    assert pauses == []


def test_policy_sees_the_first_url_and_every_redirect(site: str) -> None:
    asked: list[str] = []
    open_picture(f"{site}/hop/2?x=1", limits=PictureLimits(check_url=asked.append))
    assert asked == [f"{site}/hop/2?x=1", f"{site}/hop/1", f"{site}/cat.png"]


def test_policy_refuses_a_redirect_before_it_is_requested(site: str) -> None:
    def refuse_cats(url: str) -> None:
        if url.endswith("/cat.png"):
            raise PictureError("no cats")

    Handler.seen.clear()
    assert refusal(f"{site}/hop/1", PictureLimits(check_url=refuse_cats)) == "no cats"
    assert len(Handler.seen) == 1


def test_address_policy_acts_before_a_byte_is_sent(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy would hide the address; it must not be used even if the environment names one.
    for key in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    asked: list[str] = []
    open_picture(f"{site}/hop/1", limits=PictureLimits(check_address=asked.append))
    assert asked == ["127.0.0.1", "127.0.0.1"]

    def refuse_loopback(address: str) -> None:
        raise PictureError(f"{address} is private")

    Handler.seen.clear()
    with warnings.catch_warnings(record=True) as left_open:
        warnings.simplefilter("always", ResourceWarning)
        message = refusal(f"{site}/cat.png", PictureLimits(check_address=refuse_loopback))
        for thread in threading.enumerate():  # the watchdog's, which ends at once but not instantly
            if isinstance(thread, threading.Timer):
                thread.join(60)
        gc.collect()
    assert message == "127.0.0.1 is private"
    assert Handler.seen == [] and left_open == []


def test_a_host_that_does_not_answer_is_reported() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert "could not be downloaded" in refusal(f"http://127.0.0.1:{port}/cat.png")


@pytest.mark.parametrize("url", ["http://", "http:///x.png", "http://[::1", "http://a b/", "http://x:99999/"])
def test_malformed_urls(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    # A machine without a network may look for a name's address for longer than any test waits.
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "could not be downloaded" in refusal(url)


@pytest.mark.parametrize(
    ("opening", "drop"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"a"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
    ],
    ids=["silent", "dripping header", "dripping body", "dripping body without length"],
)
def test_the_whole_download_has_one_deadline(opening: bytes, drop: bytes) -> None:
    """A server that keeps sending a byte now and then resets every per-read timeout; ours must still end."""
    stop, hung_up = threading.Event(), threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.sendall(opening)
                # It gives up after a minute, which is not what the client should wait for.
                for _ in range(1200):
                    while select.select([connection], [], [], 0)[0]:
                        if not connection.recv(4096):
                            raise ConnectionAbortedError
                    if stop.wait(0.05):
                        return
                    connection.sendall(drop)
            except OSError:
                hung_up.set()  # the client did, as it should

    server = threading.Thread(target=drip, daemon=True)
    server.start()
    try:
        port = listener.getsockname()[1]
        message = refusal(f"http://127.0.0.1:{port}/cat.png", PictureLimits(timeout_seconds=0.4))
        assert hung_up.wait(60)
    finally:
        stop.set()
        server.join(60)
        listener.close()
    assert "did not arrive within 0.4 seconds" in message
