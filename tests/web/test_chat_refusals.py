"""What the chat endpoint refuses, and how it says so."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import json
from typing import Any

import openai
import pytest

from tests.support.openai_chat import URL, ask
from tests.support.web_server import (
    Running,
    asking,
    get,
    post,
)


def _with(**changes: Any) -> dict[str, Any]:
    return {"messages": asking("?", URL), **changes}


@pytest.mark.parametrize(
    ("request_", "status", "param", "code"),
    [
        (_with(model="gpt-4o"), 404, None, "model_not_found"),
        ({"messages": []}, 400, "messages", None),
        ({"messages": [{"role": "user", "content": "no picture"}]}, 400, "messages", None),
        ({"messages": [*asking("?", URL), {"role": "assistant", "content": "!"}]}, 400, "messages", None),
        ({"messages": [{"role": "critic", "content": "x"}]}, 400, "messages.0.role", None),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages", None),
        (_with(messages=asking("?", URL)[0]["content"][:1] * 2), 400, "messages.0.role", None),
        (
            _with(messages=[{"role": "user", "content": asking("?", URL)[0]["content"] * 2}]),
            400,
            "messages",
            None,
        ),
        (_with(messages=asking("?", URL) * 200), 400, "messages", None),
        (_with(messages=asking("x" * 100_000, URL)), 400, "messages", None),
        (_with(messages=asking("word " * 2000, URL)), 400, "messages", "context_length_exceeded"),
        (_with(temperature=3), 400, "temperature", None),
        (_with(temperature="hot"), 400, "temperature", None),
        (_with(top_p=0), 400, "top_p", None),
        (_with(n=0), 400, "n", None),
        (_with(n=9), 400, "n", None),
        (_with(num_beams=9), 400, "num_beams", None),
        (_with(num_beams=2, temperature=1), 400, "temperature", None),
        (_with(num_beams=2, n=3), 400, "n", None),
        (_with(max_tokens=0), 400, "max_tokens", None),
        (_with(stop=""), 400, "stop", None),
        (_with(stop=["x"] * 17), 400, "stop", None),
        (_with(top_logprobs=2), 400, "top_logprobs", None),
        (_with(logprobs=True, top_logprobs=21), 400, "top_logprobs", None),
        (_with(stream_options={"include_usage": True}), 400, "stream_options", None),
        (_with(tools=[{"type": "function"}]), 400, "tools", None),
        (_with(functions=[{"name": "f"}]), 400, "functions", "unsupported_parameter"),
        (
            _with(response_format={"type": "json_object"}),
            400,
            "response_format",
            "unsupported_response_format",
        ),
        (_with(presence_penalty=1.0), 400, "presence_penalty", "unsupported_parameter"),
        (_with(messages=asking("?", "data:image/png;base64,AAAA")), 400, None, "invalid_image"),
        (_with(messages=asking("?", "http://example.com/cat.png")), 400, None, "invalid_image"),
        (_with(messages=asking("?", "cat.png")), 400, None, "invalid_image"),
    ],
)
def test_what_is_refused(
    server: Running, request_: dict[str, Any], status: int, param: str | None, code: str | None
) -> None:
    body = {"model": server.model, **request_}
    response = post(f"{server.url}/v1/chat/completions", json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
    assert (error["param"] or "").startswith(param or ""), error
    assert error["code"] == code
    assert 0 < len(error["message"]) < 300


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (5, "messages.0.content: Input should be a valid string"),
        ([5], "messages.0.content.0: Input should be an object"),
        (
            [{"type": "image_url", "image_url": 5}],
            "messages.0.content.0.image_url: Input should be an object",
        ),
        ([{"type": "image_url", "image_url": {}}], "messages.0.content.0.image_url.url: Field required"),
        ([{"type": "text"}], "messages.0.content.0.text: Field required"),
        ([{"type": "input_image", "image_url": URL}], "messages.0.content.0: Input tag 'input_image'"),
    ],
)
def test_an_error_in_a_message_part_names_that_part(server: Running, content: Any, told: str) -> None:
    body = {"messages": [{"role": "user", "content": content}]}
    response = post(f"{server.url}/v1/chat/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith(told)
    assert error["param"] == told.partition(":")[0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stop": [""]}, "stop.0: String should have at least 1 character"),
        ({"num_beams": 2, "n": 3}, "n is 3; give at most num_beams, which is 2"),
        ({"messages": asking("word " * 2000, URL)}, "or lower max_tokens"),
        ({"messages": asking("?", URL.partition(",")[2])}, "send data:image/png;base64,..."),
    ],
)
def test_errors_are_in_the_words_of_the_request(server: Running, changes: dict[str, Any], told: str) -> None:
    response = post(f"{server.url}/v1/chat/completions", json=_with(**changes))
    assert response.status_code == 400
    assert told in response.json()["error"]["message"]


def test_errors_reach_the_client_as_its_own(client: openai.OpenAI, server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="no picture"):
        ask(client, server, [{"role": "user", "content": "hello"}])
    with pytest.raises(openai.BadRequestError, match="no picture"):
        ask(client, server, [{"role": "user", "content": "hello"}], stream=True)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"model": 1e999}'])
def test_bodies_that_are_not_requests_are_refused(server: Running, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = post(f"{server.url}/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert "body" in response.json()["error"]["message"] or b"model" in body


def test_a_body_not_declared_as_json_is_refused(server: Running) -> None:
    """As `curl -d` sends it."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    body = json.dumps(_with())
    response = post(f"{server.url}/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 415
    assert "Content-Type: application/json" in response.json()["error"]["message"]


def test_unknown_places_and_methods(server: Running) -> None:
    for path in ("/v1/embeddings", "/v2", "/docs", "/redoc", "/app.js/", "/page/app.js"):
        response = get(server.url + path)
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "not_found_error"
    response = get(f"{server.url}/v1/chat/completions")
    assert response.status_code == 405 and response.json()["error"]["message"]
