"""A hub on 127.0.0.1 that serves folders to the real huggingface_hub client, and remembers what was asked; and that
client, for a process of its own (it reads its settings when it is imported)."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from blip2_chat.checkpoint.inspect import find, find_adapter
from blip2_chat.errors import CheckpointError


class FakeHub:
    """`revisions` maps `org/name` to its revisions, each a folder of plain files (no LFS, no Xet)."""

    def __init__(self) -> None:
        self.revisions: dict[str, dict[str, Path]] = {}
        self.gated: set[str] = set()
        self.token: str | None = None  # when set, every request needs it
        self.failing = False  # answers 503 to everything
        self.requests: list[str] = []  # "GET /org/name/resolve/…"
        self.url = ""

    @property
    def files_sent(self) -> list[str]:
        return [
            line.rsplit("/", 1)[-1]
            for line in self.requests
            if line.startswith("GET") and "/resolve/" in line
        ]

    @staticmethod
    def commit_of(folder: Path) -> str:
        return hashlib.sha1(str(folder).encode()).hexdigest()

    def answer(self, method: str, raw_path: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        path = unquote(urlsplit(raw_path).path)
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        if not is_api and "resolve" not in parts:
            return 404, {}, b""  # what the client asks for its own purposes is not this test's business
        self.requests.append(f"{method} {path}")
        if self.failing:
            return 503, {}, b""
        if self.token is not None and token is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if self.token is not None and token != f"Bearer {self.token}":
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        org, name, *rest = parts[2:] if is_api else parts
        repository = f"{org}/{name}"
        if repository not in self.revisions:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if repository in self.gated and not (is_api and rest[:1] == ["revision"]):
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        kind, *rest = rest or ["revision", "main"]
        is_pull_request = rest[:2] == ["refs", "pr"]
        depth = 3 if is_pull_request else 1
        revision, file = "/".join(rest[:depth]), "/".join(rest[depth:])
        revisions = self.revisions[repository]
        folder = revisions.get(revision) or {self.commit_of(one): one for one in revisions.values()}.get(
            revision
        )
        if folder is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if is_api:
            return (
                200,
                {"Content-Type": "application/json"},
                json.dumps(self._listing(kind, repository, folder)).encode(),
            )
        if not (folder / file).is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        data = (folder / file).read_bytes()
        return 200, {"ETag": f'"{self._blob(data)}"', "X-Repo-Commit": self.commit_of(folder)}, data

    @staticmethod
    def _blob(data: bytes) -> str:
        return hashlib.sha1(data).hexdigest()

    def _listing(self, kind: str, repository: str, folder: Path) -> Any:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths]
        if kind == "tree":
            return [
                {"type": "file", "path": name, "size": len(data), "oid": self._blob(data)}
                for name, data in files
            ]
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": self._blob(data)} for name, data in files
        ]
        return {"id": repository, "sha": self.commit_of(folder), "siblings": siblings}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.command, self.path, self.headers["Authorization"])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def found(name: str, options: dict[str, Any]) -> None:
    """Prints one JSON line: the folder that `find` or, with the option "adapter", `find_adapter` returns, or their
    error, and the progress reported."""
    options = dict(options)
    look = find_adapter if options.pop("adapter", False) else find
    seen: list[tuple[int, int]] = []
    try:
        folder = look(name, on_progress=lambda done, total: seen.append((done, total)), **options)
        out = {"folder": str(folder)}
    except CheckpointError as error:
        out = {"error": str(error)}
    print(json.dumps({**out, "progress": seen}))
