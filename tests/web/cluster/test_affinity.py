"""Requests about one picture have one key, whichever API they use."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import base64
import json
from typing import Any

import pytest

from blip2_chat.web.cluster.affinity import picture_key
from tests.support.web_server import asking, data_url, picture

JSON = "application/json"


def key(body: Any, content_type: str = JSON) -> str:
    return picture_key(json.dumps(body).encode(), content_type)


def requests(number: int) -> dict[str, Any]:
    """The same picture, as each API has it."""
    url, bare = data_url(picture(number)), base64.b64encode(picture(number)).decode()
    part = {"type": "input_image", "image_url": url}
    return {
        "chat": {"messages": asking("what is this?", url)},
        "a bare url": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]},
        "responses": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "?"}, part]}]},
        "generate": {"prompt": "?", "images": [bare]},
        "ollama chat": {"messages": [{"role": "user", "content": "?", "images": [bare]}]},
        "caption": {"pictures": [url]},
    }


@pytest.mark.parametrize("api", list(requests(0)))
def test_one_picture_has_one_key_in_every_api(api: str) -> None:
    assert key(requests(1)[api]) == key(requests(1)["chat"]) != key(requests(2)[api])


def test_a_conversation_keeps_its_key_and_another_picture_has_its_own() -> None:
    talk = asking("what is this?", data_url(picture(1)))
    first = key({"messages": talk})
    talk += [{"role": "assistant", "content": "a dog"}, {"role": "user", "content": "and why?"}]
    assert key({"messages": talk}) == first
    talk += [{"role": "assistant", "content": "?"}, *asking("and this?", data_url(picture(2)))]
    assert key({"messages": talk}) == key(requests(2)["chat"])


def test_an_address_is_its_own_key() -> None:
    one, other = ({"messages": asking("?", f"https://example.org/{n}.png")} for n in (1, 2))
    assert key(one) == key(one) != key(other)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", JSON),
        (b"{", JSON),
        (b"\xff\xfe", JSON),
        (b"[" * 100_000, JSON),
        (b'{"messages": [{"role": "user", "content": "hello"}]}', JSON),
        (b'{"images": [1, null]}', JSON),
        (b"--x\r\n\r\nabc\r\n--x--", "multipart/form-data; boundary=x"),
    ],
)
def test_what_has_no_picture_has_no_key(body: bytes, content_type: str) -> None:
    assert picture_key(body, content_type) == ""


@pytest.mark.parametrize("url", ["data:image/png;base64,a", "data:,\ud800", "\ud800", "data:image/png,%ff"])
def test_a_broken_picture_is_left_to_the_replica(url: str) -> None:
    assert len(key({"messages": asking("?", url)})) == 64
