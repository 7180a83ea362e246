"""The host's files, which no request reaches."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import socket
from pathlib import Path

import pytest

from tests.support.web_server import (
    Running,
    ask,
    get,
    message,
    picture,
    post,
)


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
