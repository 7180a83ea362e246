"""How much may be asked: bodies, pictures, and requests that never end."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import math
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import ImageFile

from blip2_chat.web.settings import MIB
from tests.support.waiting import wait_until
from tests.support.web_server import (
    MakeModel,
    Running,
    ask,
    data_url,
    message,
    picture,
    post,
    running,
)

UNHURRIED = 60.0  # seconds: what is refused is read off for as long as a busy machine sends it


@pytest.fixture(scope="module")
def narrow(make_model: MakeModel) -> Iterator[Running]:
    limits = {"max_body_bytes": 2 * MIB, "max_picture_bytes": MIB, "max_pixels": 250_000}
    limits["read_off_seconds"] = UNHURRIED
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
    limits = {"max_held_bytes": MIB, "max_body_bytes": 2 * MIB, "read_off_seconds": UNHURRIED}
    with running(make_model(), **limits) as server:
        response = post(f"{server.url}/v1/caption", content=b"x" * (MIB + 1))
        assert response.status_code == 429 and int(response.headers["retry-after"]) >= 1


def test_a_refused_upload_is_answered_without_delay(make_model: MakeModel) -> None:
    """Not when what does not come any more could have been read."""
    with running(make_model(), max_held_bytes=9, read_off_seconds=math.inf) as server:
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
