"""Requests that are not well formed: HTTP below the application, and text that is no text."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import json
import logging
import socket

import httpx
import pytest

from tests.support.web_server import MakeModel, Running, asking, data_url, get, picture, post, running

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
MALFORMED = {
    "request line": (b"GET\r\n\r\n", 400),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "header name": (b"GET / HTTP/1.1\r\nHost: a\r\nb ad: 1\r\n\r\n", 400),
    "length": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "large header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 40_000 + b"\r\n", 431),
    "both lengths": (
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        400,
    ),
}


def exchange(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(sent)
        found = b""
        try:
            while piece := client.recv(65536):
                found += piece
        except ConnectionResetError:  # it closed with bytes of ours unread
            pass
        return found


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_is_told_in_openais_shape(server: Running, name: str) -> None:
    sent, status = MALFORMED[name]
    head, _, body = exchange(server.port, sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d" % status)
    assert b"application/json" in head.lower()
    error = json.loads(body)["error"]  # one answer, and nothing after it
    assert error["type"] == "invalid_request_error" and error["message"] and "\n" not in error["message"]
    assert get(f"{server.url}/health").status_code == 200


def test_the_connection_limit_is_reported_in_openais_shape(make_model: MakeModel) -> None:
    with running(make_model(), slots=1, queue=0) as server:
        most = server.uvicorn.config.limit_concurrency
        assert most is not None
        held = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(most)]
        answer = get(f"{server.url}/health")
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "too_many_connections"
        for one in held:
            one.close()


def chat(server: Running, text: str) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return post(f"{server.url}/v1/chat/completions", content=text, headers=headers)


@pytest.mark.parametrize("place", ["url", "prompt", "model", "stop", "user", "key", "role"])
def test_a_lone_surrogate_is_a_wrong_request(server: Running, place: str) -> None:
    half = "\ud800"
    message = asking(half if place == "prompt" else "what?", half if place == "url" else data_url(picture(1)))
    body = {"messages": message, "max_tokens": 2}
    if place in ("model", "stop", "user"):
        body[place] = half
    elif place == "key":
        body[half] = 1
    elif place == "role":
        message[0]["role"] = half
    answer = chat(server, json.dumps(body))
    assert answer.status_code == 400
    assert "surrogate" in answer.json()["error"]["message"]


def test_a_lone_surrogate_in_a_form_is_a_wrong_request(server: Running) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="start"\r\n\r\n+2AA-\r\n'
        b'--x\r\nContent-Disposition: form-data; name="pictures"; filename="a.png"\r\n\r\n'
        + picture(1)
        + b"\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x; charset=utf-7"}
    answer = post(f"{server.url}/v1/caption", content=body, headers=headers)
    assert answer.status_code == 400 and "Unicode" in answer.json()["error"]["message"]


def test_log_text_covers_captions(make_model: MakeModel, caplog: pytest.LogCaptureFixture) -> None:
    with running(make_model(), log_text=True) as server, caplog.at_level(logging.INFO, "blip2_chat.web"):
        asked = {"pictures": [data_url(picture(3))], "start": "a photo of", "max_tokens": 3}
        answer = post(f"{server.url}/v1/caption", json=asked)
        assert answer.status_code == 200
    assert any("'a photo of' ->" in record.getMessage() for record in caplog.records)


def test_each_model_describes_itself(server: Running) -> None:
    (model,) = get(f"{server.url}/v1/models").json()["data"]
    assert model["blip2_chat"]["description"] == "OPT. Captions and short answers."
