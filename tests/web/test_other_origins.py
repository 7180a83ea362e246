"""Browser applications of other sites (`--allowed-origin`), ids of requests, and paths that are not here."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from blip2_chat.errors import Blip2ChatError
from blip2_chat.web.server import origins
from tests.support.web_server import MakeModel, Running, data_url, get, picture, post, request, running

APP = "https://app.example"
ASKED = "authorization,x-stainless-os"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ASKED}


@pytest.fixture(scope="module")
def open_server(make_model: MakeModel) -> Iterator[Running]:
    with running(make_model(), allowed_origins=(APP,), api_key="secret") as one:
        yield one


def test_a_preflight_of_an_allowed_origin_needs_no_key(open_server: Running) -> None:
    for path in ("/v1/chat/completions", "/api/chat"):
        told = request("OPTIONS", open_server.url + path, headers={"Origin": APP, **PREFLIGHT})
        assert told.status_code == 200
        assert told.headers["access-control-allow-origin"] == APP
        assert "POST" in told.headers["access-control-allow-methods"]
        assert told.headers["access-control-allow-headers"].lower() == ASKED
        assert "origin" in told.headers["vary"].lower()


def test_its_pages_may_read_every_response(open_server: Running) -> None:
    key = {"Authorization": "Bearer secret"}
    listed = get(f"{open_server.url}/v1/models", headers={"Origin": APP, **key})
    assert listed.status_code == 200 and listed.headers["access-control-allow-origin"] == APP
    assert "x-request-id" in listed.headers["access-control-expose-headers"].lower()
    refused = get(f"{open_server.url}/v1/models", headers={"Origin": APP})
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == APP
    assert "access-control-allow-credentials" not in refused.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example", f"{APP}.evil", f"{APP}:444", "null"]
)
def test_others_are_refused_as_before(open_server: Running, origin: str) -> None:
    for method in ("GET", "OPTIONS"):
        told = request(method, f"{open_server.url}/v1/models", headers={"Origin": origin, **PREFLIGHT})
        assert told.status_code == 403
        assert "access-control-allow-origin" not in told.headers
        assert "--allowed-origin" in told.json()["error"]["message"]


def test_origins_are_checked_at_the_start() -> None:
    assert origins(["https://App.example/", "*", "null", "http://localhost:3000"]) == (
        "https://app.example", "*", "null", "http://localhost:3000",
    )  # fmt: skip
    for wrong in ("app.example", "https://app.example/path", "", "https://"):
        with pytest.raises(Blip2ChatError, match="is not an origin"):
            origins([wrong])


ASK = """
async ([url, picture]) => {
  const body = {messages: [{role: "user", content: [
    {type: "text", text: "what is this?"}, {type: "image_url", image_url: picture}]}]};
  const response = await fetch(url + "/v1/chat/completions", {
    method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
  return [response.status, (await response.json()).choices.length, response.headers.get("x-request-id").length];
}
"""


def test_a_page_of_another_site_in_a_real_browser(
    browser: Browser, make_model: MakeModel, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("<title>another site</title>")
    handler: Any = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{site.server_port}"
    page = browser.new_page()
    try:
        page.goto(origin)
        with running(make_model(), allowed_origins=(origin,)) as server:
            assert page.evaluate(ASK, [server.url, data_url(picture(1))]) == [200, 1, 32]
        with running(make_model()) as server, pytest.raises(Exception, match="Failed to fetch"):
            page.evaluate(ASK, [server.url, data_url(picture(1))])
    finally:
        page.close()
        site.shutdown()


def test_every_response_has_an_id_of_its_own(server: Running) -> None:
    seen = [
        get(server.url + path).headers["x-request-id"] for path in ("/", "/health", "/v1/models", "/nowhere")
    ]
    seen.append(post(f"{server.url}/v1/chat/completions", json={}).headers["x-request-id"])
    assert len({*seen}) == len(seen) and all(len(one) == 32 for one in seen)


@pytest.mark.parametrize(
    ("method", "path", "status", "told"),
    [
        ("POST", "/chat/completions", 404, "did you mean /v1/chat/completions?"),
        ("POST", "/v1/chat/completions/", 404, "did you mean /v1/chat/completions?"),
        ("POST", "/v1/v1/chat/completions", 404, "did you mean /v1/chat/completions?"),
        ("GET", "/models", 404, "did you mean /v1/models?"),
        ("GET", "/tags", 404, "did you mean /api/tags?"),
        ("POST", "/v1/chat/completion", 404, "did you mean /v1/chat/completions?"),
        ("POST", "/v1/embeddings", 404, "this server has /v1/caption, /v1/chat/completions"),
        ("POST", "/wp-login.php", 404, "this server has /v1/caption"),
        ("POST", "/api/embed", 404, "this server has /api/chat, /api/generate"),
        ("GET", "/v1/chat/completions", 405, "use POST for this path"),
        ("POST", "/api/tags", 405, "use GET for this path"),
    ],
)
def test_a_wrong_path_says_which_exist(
    server: Running, method: str, path: str, status: int, told: str
) -> None:
    response = request(method, server.url + path)
    error = response.json()["error"]
    assert response.status_code == status
    assert told in (error if path.startswith("/api") else error["message"])
