"""Whatever is sent to a documented route, the answer is one of those documented: no crash, and one shape of error."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import copy
import json
import random
import string
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.model_folder_fuzz import NASTY, mutate_json
from tests.support.web_server import Running, asking, data_url, picture

BOUNDED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
TYPES = [
    None,
    "",
    "application/json",
    "application/json; charset=utf-16",
    "application/json, text/html",
    "APPLICATION/JSON",
    "application/vnd.api+json",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=" + "x" * 300,
    "image/png",
    "text/plain; charset=no-such",
    "\x01/;;=",
]
URL = data_url(picture(1, 16))
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"$ref": "#/$defs/Kind"},
        "count": {"type": "integer", "minimum": 0, "maximum": 3},
        "sure": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "$defs": {"Kind": {"enum": ["a", 2, None]}},
    "required": ["kind"],
}
JSON = st.recursive(
    st.sampled_from([one for one in NASTY if not isinstance(one, str) or len(one) < 1000])
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
PART = st.builds(
    lambda name, file, content: (
        b'--x\r\nContent-Disposition: form-data; name="'
        + name
        + b'"'
        + file
        + b"\r\n\r\n"
        + content
        + b"\r\n"
    ),
    st.sampled_from([b"image", b"file", b"max_tokens", b"prompt", b"", b"\xff", b'a"b']),
    st.sampled_from([b"", b'; filename="a.png"', b"; filename*=UTF-8''%ff", b"\r\nContent-Type: image/png"]),
    st.binary(max_size=60) | st.just(picture(1, 16)),
)
FORM = st.builds(
    lambda parts, end: b"".join(parts) + end, st.lists(PART, max_size=4), st.sampled_from([b"--x--\r\n", b""])
)
BODIES = st.one_of(st.binary(max_size=200), JSON.map(lambda value: json.dumps(value).encode()), FORM)


@pytest.fixture(scope="module")
def routes(server: Running) -> list[str]:
    document = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    assert len(document["paths"]) > 5
    return sorted([*document["paths"], "/openapi.json"])


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as client:
        yield client


def check(response: httpx.Response) -> None:
    """Served, refused in the one shape that errors have, or refused because the server is busy."""
    status = response.status_code
    assert status < 500 or status in (503, 504), response.text
    if status >= 400 and response.request.method != "HEAD":
        error = response.json()["error"]
        if response.request.url.path.startswith("/api/"):
            assert isinstance(error, str) and error and error.isprintable()
            return
        assert error["message"] and error["message"].isprintable() and error["type"], error
        assert set(error) == {"message", "type", "param", "code"}


@BOUNDED
@given(
    number=st.integers(0, 1000),
    method=st.sampled_from(METHODS),
    content_type=st.sampled_from(TYPES),
    body=BODIES,
    name=st.text(string.printable + "é\u202e", min_size=1, max_size=12),
    query=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)
def test_any_method_type_and_body_at_every_route(
    server: Running, client: httpx.Client, routes: list[str], number: int, method: str,
    content_type: str | None, body: bytes, name: str, query: dict[str, str],
) -> None:  # fmt: skip
    route = routes[number % len(routes)].replace("{model}", quote(name, safe=""))
    headers = {} if content_type is None else {"Content-Type": content_type}
    check(client.request(method, server.url + route, content=body, headers=headers, params=query))


GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": asking("what is this?", URL),
        "max_tokens": 2,
        "stop": ["."],
        "temperature": 0.5,
        "stream": False,
        "n": 1,
        "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
    },
    "/v1/responses": {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL}]}],
        "text": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "max_output_tokens": 2,
    },
    "/v1/caption": {"image": URL, "max_tokens": 2, "prompt": "a photo of"},
    "/v1/picture": {"image": URL, "max_tokens": 2, "prompt": "a photo of"},
    "/api/chat": {
        "messages": [{"role": "user", "content": "what is this?", "images": [URL.partition(",")[2]]}],
        "stream": False,
        "format": SCHEMA,
        "options": {"num_predict": 2, "seed": 3, "stop": ["."], "temperature": 0.5},
    },
    "/api/generate": {
        "prompt": "what is this?",
        "images": [URL.partition(",")[2]],
        "options": {"num_predict": 2, "top_k": 3},
    },
}


@pytest.mark.parametrize("route", GOOD)
@pytest.mark.parametrize("seed", range(2))
def test_good_requests_with_some_values_replaced(
    server: Running, client: httpx.Client, route: str, seed: int
) -> None:
    """Many of them get far: they have a model, a picture and a question that are good."""
    draw = random.Random(seed)
    good = {"model": server.model, **GOOD[route]}
    statuses = set()
    for _ in range(40):
        content = json.dumps(mutate_json(copy.deepcopy(good), draw)).encode()
        response = client.post(
            server.url + route, content=content, headers={"Content-Type": "application/json"}
        )
        check(response)
        statuses.add(response.status_code)
    assert 400 in statuses, "nothing was refused"
