"""Pictures by URL: fetched from the public internet alone."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from blip2_chat.images import PictureLimits
from blip2_chat.web.pictures.address_policy import is_public, picture_limits
from blip2_chat.web.settings import MIB, Settings
from tests.support.waiting import wait_until
from tests.support.web_server import (
    MakeModel,
    Running,
    ask,
    data_url,
    message,
    picture,
    running,
)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::8.8.8.8", True),
        ("2002:808:808::1", True),
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("192.0.0.192", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::1", False),
        ("2001:0:7f00:1::f5ff:fffe", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("not an address", False),
        ("", False),
    ],
)
def test_public_addresses_are_told_from_private_ones(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/p.png",
        "http://localhost:{port}/p.png",
        "http://127.1:{port}/p.png",
        "http://2130706433:{port}/p.png",
        "http://0x7f000001:{port}/p.png",
        "http://0177.0.0.1:{port}/p.png",
        "http://0:{port}/p.png",
        "http://[::1]:{port}/p.png",
        "http://[::ffff:127.0.0.1]:{port}/p.png",
        "http://user:pass@127.0.0.1:{port}/p.png",
        "HTTP://127.0.0.1:{port}/p.png",
        "http://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/p.png",
    ],
)
def test_private_addresses_are_refused(open_server: Running, stranger: Stranger, url: str) -> None:
    response = ask(open_server, url.format(port=stranger.port))
    assert response.status_code == 400
    assert "public internet" in message(response)
    assert stranger.requests == [] and stranger.connections == 0


@pytest.mark.parametrize(
    "url", ["http://", "http://:80/x", "http://[::1/x", "http://a b/x", "https://x:99999/y"]
)
def test_wrong_urls_are_refused(open_server: Running, url: str) -> None:
    assert ask(open_server, url).status_code == 400


def test_urls_are_off_unless_allowed(server: Running, stranger: Stranger) -> None:
    response = ask(server, f"http://127.0.0.1:{stranger.port}/p.png")
    assert response.status_code == 400 and "switched off" in message(response)
    assert stranger.connections == 0


class Stranger:
    """A web server that stands for one on the internet, and counts who comes."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.connections = 0
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        stranger = self

        class Handler(BaseHTTPRequestHandler):
            def setup(self) -> None:
                stranger.connections += 1
                super().setup()

            def do_GET(self) -> None:
                stranger.requests.append(self.path)
                stranger.answers.get(self.path, _picture_answer)(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _picture_answer(handler: BaseHTTPRequestHandler) -> None:
    _answer(handler, picture(1), "image/png")


def _answer(handler: BaseHTTPRequestHandler, body: bytes, kind: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _redirect(target: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    made = Stranger()
    yield made
    made.close()


def patient(limits: PictureLimits) -> PictureLimits:
    """A download may take as long as it does on a busy machine."""
    return replace(limits, timeout_seconds=60.0)


@pytest.fixture(scope="module")
def open_server(make_model: MakeModel) -> Iterator[Running]:
    """URLs allowed, with the real rule and the system's resolver."""
    settings = Settings(allow_urls=True)
    with running(make_model(), patient(picture_limits(settings)), allow_urls=True) as server:
        yield server


@contextmanager
def with_resolver(make_model: MakeModel, resolve: Callable[[str, int], list[str]]) -> Iterator[Running]:
    """A server whose policy asks `resolve`, and takes 127.0.0.1 for public where `resolve` says 93.184.215.14.

    Connections themselves go where the system's resolver leads: `localhost` is the name of the stranger."""
    settings = Settings(allow_urls=True, max_picture_bytes=MIB)
    limits = patient(picture_limits(settings, resolve))
    with running(make_model(), limits, allow_urls=True) as server:
        yield server


def test_a_name_that_changes_its_address_is_refused(make_model: MakeModel, stranger: Stranger) -> None:
    """DNS rebinding: public when the rule asks, 127.0.0.1 when the connection is made."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["93.184.215.14"]

    with with_resolver(make_model, resolve) as server:
        refused = ask(server, f"http://localhost:{stranger.port}/p.png")
        stranger.close()
        absent = ask(server, f"http://localhost:{stranger.port}/p.png")
    assert asked == ["localhost", "localhost"]
    assert refused.status_code == absent.status_code == 400
    assert stranger.requests == [], "the request was sent before the address was checked"
    # What answers in here and what does not cannot be told apart.
    assert message(refused) == message(absent)


def test_one_private_address_among_public_ones_is_enough(make_model: MakeModel, stranger: Stranger) -> None:
    with with_resolver(make_model, lambda host, port: ["93.184.215.14", "127.0.0.1"]) as server:
        assert "public internet" in message(ask(server, f"http://localhost:{stranger.port}/p.png"))
    assert stranger.connections == 0


@pytest.fixture
def lenient(make_model: MakeModel) -> Iterator[Running]:
    """127.0.0.1 counts as public here, so that redirects and bodies can be tried; all else as always."""
    settings = Settings(allow_urls=True, max_picture_bytes=MIB)
    allowed = picture_limits(settings, allowed=lambda address: address == "127.0.0.1" or is_public(address))
    limits = patient(allowed)
    with running(make_model(), limits, allow_urls=True) as server:
        yield server


def test_a_picture_by_url(lenient: Running, stranger: Stranger) -> None:
    by_url = ask(lenient, f"http://127.0.0.1:{stranger.port}/p.png")
    inline = ask(lenient, data_url(picture(1)))
    assert by_url.json()["choices"] == inline.json()["choices"]


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]:{port}/p.png",
        "http://10.0.0.1/",
        "http://127.0.0.2:{port}/p.png",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "data:image/png;base64,AAAA",
        "//127.0.0.3:{port}/p.png",
    ],
)
def test_redirects_to_private_addresses_are_refused(
    lenient: Running, stranger: Stranger, target: str
) -> None:
    stranger.answers["/go"] = _redirect(target.format(port=stranger.port))
    stranger.answers["/first"] = _redirect("/go")
    response = ask(lenient, f"http://127.0.0.1:{stranger.port}/first")
    assert response.status_code == 400
    assert stranger.requests == ["/first", "/go"]


def test_redirects_end(lenient: Running, stranger: Stranger) -> None:
    stranger.answers["/loop"] = _redirect("/loop")
    assert "redirects" in message(ask(lenient, f"http://127.0.0.1:{stranger.port}/loop"))
    assert len(stranger.requests) <= 4


def test_a_file_that_is_not_a_picture_is_refused(lenient: Running, stranger: Stranger) -> None:
    secret = b"<html><body>secret</body></html>"
    stranger.answers["/page"] = lambda handler: _answer(handler, secret, "image/png")
    response = ask(lenient, f"http://127.0.0.1:{stranger.port}/page")
    assert response.status_code == 400 and "secret" not in response.text
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    stranger.answers["/svg"] = lambda handler: _answer(handler, svg, "image/svg+xml")
    assert ask(lenient, f"http://127.0.0.1:{stranger.port}/svg").status_code == 400


def test_a_download_is_capped(lenient: Running, stranger: Stranger) -> None:
    sent: list[int] = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "image/png")
        handler.end_headers()
        try:
            while sum(sent) < 200 * MIB:
                sent.append(handler.wfile.write(b"\0" * 65536))
        except OSError:
            pass

    stranger.answers["/endless"] = endless
    assert "1 MiB" in message(ask(lenient, f"http://127.0.0.1:{stranger.port}/endless"))
    assert wait_until(lambda: 0 < sum(sent) < 100 * MIB)
