"""Who may ask: addresses, keys, names of this machine, pages of other sites."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import hmac
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from blip2_chat.cli import app as cli
from blip2_chat.web.server import BindError, bind, is_loopback, require_safe
from tests.support.web_server import (
    MakeModel,
    Running,
    ask,
    data_url,
    get,
    head,
    picture,
    post,
    request,
    running,
)


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
