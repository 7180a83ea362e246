"""Each rule of the server, attacked."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import hmac
import io
import json
import logging
import math
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageFile
from typer.testing import CliRunner

from blip2_chat.cli import app as cli
from blip2_chat.images import PictureLimits
from blip2_chat.web.middleware import admission as intake
from blip2_chat.web.pictures.address_policy import is_public, picture_limits
from blip2_chat.web.server import BindError, bind, is_loopback, require_safe
from blip2_chat.web.settings import MIB, Settings
from tests.support.waiting import wait_until
from tests.support.web_server import (
    MakeModel,
    Running,
    asking,
    data_url,
    get,
    head,
    picture,
    post,
    request,
    running,
)


def ask(server: Running, url: str, question: str = "what is this?", **more: Any) -> httpx.Response:
    body = {"model": server.model, "messages": asking(question, url), "max_tokens": 4}
    return post(f"{server.url}/v1/chat/completions", json=body, **more)


def message(response: httpx.Response) -> str:
    return str(response.json()["error"]["message"])


# Who may ask


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "192.168.1.4", "::", "example.com", "10.0.0.1", "localhost.evil.com"]
)
def test_listening_on_the_network_needs_a_key_or_an_explicit_option(host: str) -> None:
    with pytest.raises(BindError, match="api_key"):
        require_safe(host, None, insecure=False)
    with pytest.raises(BindError, match="empty"):
        require_safe(host, " ", insecure=False)
    for unsendable in ("key\r", " key", "ключ"):
        with pytest.raises(BindError, match="clients cannot send"):
            require_safe(host, unsendable, insecure=False)
    require_safe(host, "key", insecure=False)
    require_safe(host, None, insecure=True)
    result = CliRunner().invoke(cli, ["serve", "--host", host, "--port", "0", "--model", "nowhere"])
    assert result.exit_code == 1 and "--insecure" in result.output


@pytest.mark.parametrize("host", ["203.0.113.1", "[::1]", "a..b"])
def test_an_address_of_another_machine_is_reported(host: str) -> None:
    with pytest.raises(BindError, match="cannot be bound") as caught:
        bind(host, 0)
    assert caught.value.parameter == "host"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "LOCALHOST", "::1"])
def test_this_machine_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    require_safe(host, None, insecure=False)


def test_the_default_address_is_this_machine(server: Running) -> None:
    """A socket on the default host is not reached through the machine's other addresses."""
    others = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1", "127.0.1.1"}:
        with pytest.raises(httpx.ConnectError):
            get(f"http://{address}:{server.port}/health")
    assert get(f"{server.url}/health").json() == {"status": "ok"}


@pytest.fixture(scope="module")
def locked(make_model: MakeModel) -> Iterator[Running]:
    with running(make_model(), api_key="the right key") as server:
        yield server


WRONG_KEYS = [
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer the right ke"},
    {"Authorization": "Bearer the right key2"},
    {"Authorization": "Bearer THE RIGHT KEY"},
    {"Authorization": "Basic the right key"},
    {"Authorization": "the right key"},
    {"X-API-Key": "the right key"},
    {"Authorization": b"Bearer \xff\xfe"},
]


@pytest.mark.parametrize("headers", WRONG_KEYS)
def test_without_the_key_nothing_is_answered(locked: Running, headers: dict[str, Any]) -> None:
    assert ask(locked, data_url(picture(1)), headers=headers).status_code == 401
    for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/nothing", "/%76%31/models"):
        response = get(locked.url + path, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
    assert post(f"{locked.url}/v1/caption", headers=headers).status_code == 401


def test_with_the_key_all_is_answered(locked: Running) -> None:
    headers = {"Authorization": "Bearer the right key"}
    assert ask(locked, data_url(picture(1)), headers=headers).status_code == 200
    assert get(f"{locked.url}/metrics", headers=headers).status_code == 200


def test_the_page_and_the_state_need_no_key(locked: Running) -> None:
    for path in ("/", "/app.js", "/health", "/ready"):
        assert get(locked.url + path).status_code == 200
        assert head(locked.url + path).status_code == 200  # load balancers ask so


def test_keys_are_compared_in_constant_time(locked: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    for key in ("", "x", "the right key", "the right key and more"):
        get(f"{locked.url}/v1/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    assert len(compared) == 4
    # Of one length, whatever was sent.
    assert {len(side) for pair in compared for side in pair} == {32}


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:8000", "127.0.0.1.evil.com", "localhost@evil.com", "", "[::1"]
)
def test_another_name_for_this_machine_is_refused(server: Running, host: str) -> None:
    """DNS rebinding: a stranger's page whose name leads to 127.0.0.1 gets nothing."""
    for path in ("/v1/models", "/", "/metrics"):
        response = get(server.url + path, headers={"Host": host})
        assert response.status_code == 400
        assert "text/html" not in response.headers["content-type"]


def test_this_machines_names_are_accepted(server: Running) -> None:
    for host in ("localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:80"):
        assert get(f"{server.url}/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.com", "null", "http://127.0.0.1:1", "http://localhost:8000", "http://[::1"]
)
def test_other_sites_pages_are_refused(server: Running, origin: str) -> None:
    """No CORS, and no "simple" request (a form, text/plain) that would need none."""
    content = {"Content-Type": "text/plain", "Origin": origin}
    simple = post(f"{server.url}/v1/chat/completions", content=b"{}", headers=content)
    form = post(f"{server.url}/v1/caption", files={"pictures": picture(1)}, headers={"Origin": origin})
    preflight = request(
        "OPTIONS",
        f"{server.url}/v1/chat/completions",
        headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
    )
    for response in (simple, form, preflight):
        assert response.status_code == 403
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_its_own_page_is_accepted(server: Running) -> None:
    response = ask(server, data_url(picture(1)), headers={"Origin": server.url})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


# How much may be asked


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is read off for as long as a busy machine sends it."""
    monkeypatch.setattr(intake, "_READ_OFF_SECONDS", 60.0)


@pytest.fixture(scope="module")
def narrow(make_model: MakeModel) -> Iterator[Running]:
    limits = {"max_body_bytes": 2 * MIB, "max_picture_bytes": MIB, "max_pixels": 250_000}
    with running(make_model(), **limits) as server:
        yield server


def test_a_body_too_large_is_refused_by_its_header(narrow: Running) -> None:
    response = post(f"{narrow.url}/v1/caption", content=b"x" * (2 * MIB + 1))
    assert response.status_code == 413 and "2 MiB" in message(response)


def test_a_body_too_large_is_refused_while_it_comes(narrow: Running) -> None:
    held: list[int] = []
    places = narrow.service.places

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            held.append(places.held_bytes)
            yield b"x" * (MIB // 8)

    response = post(f"{narrow.url}/v1/chat/completions", content=chunks())
    assert response.status_code == 413
    assert max(held) <= 2 * MIB
    assert wait_until(lambda: places.held_bytes == 0)


def test_all_bodies_together_are_bounded(make_model: MakeModel) -> None:
    with running(make_model(), max_held_bytes=MIB, max_body_bytes=2 * MIB) as server:
        response = post(f"{server.url}/v1/caption", content=b"x" * (MIB + 1))
        assert response.status_code == 429 and int(response.headers["retry-after"]) >= 1


def test_a_refused_upload_is_answered_without_delay(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when what does not come any more could have been read."""
    monkeypatch.setattr(intake, "_READ_OFF_SECONDS", math.inf)
    with running(make_model(), max_held_bytes=9) as server:
        assert post(f"{server.url}/v1/caption", content=b"x" * 10).status_code == 429


def test_a_body_that_never_ends_is_given_up(narrow: Running) -> None:
    """Half a request and silence: its place is free again, and the connection closed."""
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=60) as slow:
        slow.sendall(b"POST /v1/caption HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{")
        assert wait_until(lambda: narrow.service.places.requests == 1)
        narrow.let_pass(59)
        assert narrow.service.places.requests == 1
        narrow.let_pass(2)
        assert b" 408 " in slow.recv(200)
    assert wait_until(lambda: narrow.service.places.requests == 0)


@pytest.mark.parametrize("before", ["", "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
def test_a_request_that_never_begins_is_given_up(narrow: Running, before: str) -> None:
    """Half a head and silence, hundreds of which would be all the connections that there are."""
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=60) as slow:
        slow.sendall(before.encode())
        if before:
            assert b" 200 " in slow.recv(10_000)
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: 127")
        slow.settimeout(0.2)

        def is_closed() -> bool:
            try:
                return not slow.recv(10_000)
            except TimeoutError:
                return False

        assert not is_closed()
        assert wait_until(lambda: narrow.let_pass(31) or is_closed())


def test_a_picture_file_too_large(narrow: Running) -> None:
    large = picture(1) + b"\0" * MIB
    assert "1 MiB" in message(ask(narrow, data_url(large)))
    form = post(f"{narrow.url}/v1/caption", files={"pictures": ("big.png", large)})
    assert "1 MiB" in message(form)


def _bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that unpacks to width x height."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    data = zlib.compress(b"\0" * 1000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(501, 500), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb(
    narrow: Running, monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    unpacked: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load

    def watched(image: ImageFile.ImageFile) -> Any:
        unpacked.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    response = ask(narrow, data_url(_bomb(width, height)))
    assert response.status_code == 400 and "pixels" in message(response)
    assert unpacked == []
    assert ask(narrow, data_url(picture(width % 1000))).status_code == 200
    assert set(unpacked) == {(64, 64)}


def test_a_compressed_request_body_is_not_unpacked(server: Running) -> None:
    body = zlib.compress(b"{}")
    response = post(
        f"{server.url}/v1/chat/completions",
        content=body,
        headers={"Content-Encoding": "deflate", "Content-Type": "application/json"},
    )
    assert response.status_code == 400


def test_deeply_nested_json(server: Running) -> None:
    body = b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    headers = {"Content-Type": "application/json"}
    response = post(f"{server.url}/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400
    response = post(f"{server.url}/v1/caption", content=body, headers=headers)
    assert response.status_code == 400


# The host's files


@pytest.mark.parametrize(
    "path",
    [
        "{}",
        "file://{}",
        "FILE://localhost{}",
        "file:{}",
        "{}/../{name}",
        "~/x.png",
        "C:\\x.png",
        "\\\\h\\x.png",
    ],
)
def test_no_file_of_the_host_is_read(server: Running, tmp_path: Path, path: str) -> None:
    there, absent = tmp_path / "there.png", tmp_path / "absent.png"
    there.write_bytes(picture(1))
    told = []
    for file in (there, absent):
        url = path.format(file, name=file.name)
        for response in (
            ask(server, url),
            post(f"{server.url}/v1/caption", json={"pictures": [url]}),
        ):
            assert response.status_code == 400
            told.append(message(response).replace(file.name, "NAME"))
    # Whether a file is there cannot be told either.
    assert told[0] == told[2] and told[1] == told[3]


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/..%2f..%2fpyproject.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page/../../app.py",
        "/samples/../samples.json",
        "//etc/passwd",
        "/app.py",
        "/__init__.py",
        "/v1/models/../../etc/passwd",
    ],
)
def test_only_the_pages_own_files_are_served(server: Running, path: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split(b" ")[1] == b"404", answer[:200]
    assert b"root:" not in answer and b"import" not in answer


def test_an_uploaded_files_name_is_only_a_name(server: Running) -> None:
    files = {"pictures": ("../../../etc/passwd", picture(1))}
    entry = post(f"{server.url}/v1/caption", files=files).json()["data"][0]
    assert entry["name"] == "passwd" and entry["caption"]


def test_the_models_path_is_not_revealed(server: Running) -> None:
    listed = get(f"{server.url}/v1/models").text
    assert "/" not in server.model and "/tmp" not in listed


# Pictures by URL


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


# What is kept, and told


def test_answers_carry_headers_against_misuse(server: Running) -> None:
    for path in ("/", "/app.js", "/v1/models", "/nothing", "/health"):
        headers = get(server.url + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert (
            "unsafe" not in policy and "http:" not in policy and "https:" not in policy and "*" not in policy
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    assert get(f"{server.url}/v1/models").headers["cache-control"] == "no-store"


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += logging.Formatter().format(record) + "\n"


@pytest.mark.parametrize("log_text", [False, True])
def test_the_log_has_no_text_unless_asked(make_model: MakeModel, log_text: bool) -> None:
    lines = _Lines()
    words = "zebra"  # not in the line that raises: a traceback shows that
    loggers = [logging.getLogger(name) for name in ("blip2_chat", "uvicorn", "fastapi", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(lines)
        logger.setLevel(logging.DEBUG)
    model = make_model()
    try:
        with running(model, log_text=log_text) as server:
            answer = ask(server, data_url(picture(1)), "where is the zebra?").json()
            ask(server, "data:image/png;base64,emVicmE=", "zebra")
            ask(server, "zebra.png", "zebra")
            get(f"{server.url}/zebra?zebra=zebra", headers={"X-Zebra": "zebra"})
            post(f"{server.url}/v1/chat/completions", json={"model": "zebra", "zebra": "zebra"})
            post(f"{server.url}/v1/caption", files={"pictures": ("zebra.png", b"zebra")})

            def broken(*_: Any) -> Any:
                raise RuntimeError(words)

            model.engine.prefill = broken  # type: ignore[method-assign]
            assert ask(server, data_url(picture(1)), "zebra").status_code == 500
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(lines)
            logger.setLevel(level)
    text = answer["choices"][0]["message"]["content"]
    assert "POST /v1/chat/completions 200" in lines.text
    assert "RuntimeError" in lines.text
    if log_text:
        assert "where is the zebra?" in lines.text and repr(text) in lines.text
    else:
        assert "zebra" not in lines.text.lower()
        assert text not in lines.text
        assert data_url(picture(1))[30:60] not in lines.text


def test_metrics_tell_no_text(server: Running) -> None:
    ask(server, data_url(picture(1)), "where is the zebra?")
    get(f"{server.url}/zebra")
    told = get(f"{server.url}/metrics").text
    assert "zebra" not in told
    assert 'blip2_chat_requests_total{route="/v1/chat/completions",status="200"}' in told
    assert 'blip2_chat_tokens_total{kind="completion",model="opt"}' in told
    # However many paths are tried, they are one row.
    for number in range(20):
        get(f"{server.url}/{number}")
    assert get(f"{server.url}/metrics").text.count('route="other"') < 25


def test_a_picture_leaves_no_file(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of request with a large picture, with nowhere to write a temporary file to."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    file = io.BytesIO()
    Image.effect_noise((1500, 1500), 90).save(file, "PNG")
    assert len(file.getvalue()) > 2 * MIB
    assert ask(server, data_url(file.getvalue())).status_code == 200
    form = post(f"{server.url}/v1/caption", files={"pictures": ("a.png", file.getvalue())})
    assert form.json()["data"][0]["caption"] is not None


def test_an_error_reveals_nothing_internal(make_model: MakeModel) -> None:
    model = make_model()

    def broken(*_: Any) -> Any:
        raise RuntimeError("/home/someone/secret")

    model.engine.encode_image = broken  # type: ignore[method-assign]
    with running(model) as server:
        response = ask(server, data_url(picture(1)))
    assert response.status_code == 500
    assert json.loads(response.text)["error"]["code"] == "internal_error"
    assert "secret" not in response.text and "Traceback" not in response.text
