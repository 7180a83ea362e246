"""What the tests of the server share: pictures, messages, and real servers on 127.0.0.1."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from blip2_chat.images import PictureLimits
from blip2_chat.model import Model
from blip2_chat.search.index import Index
from blip2_chat.web.scheduler import Scheduler
from blip2_chat.web.server import LOCAL_NAMES, bind, make_server
from blip2_chat.web.service import Service
from blip2_chat.web.settings import Settings
from tests.support.waiting import wait_until

MakeModel = Callable[..., Model]


def request(method: str, url: str, **options: Any) -> httpx.Response:
    """httpx itself gives up after 5 s without a word, which a busy machine may need."""
    return httpx.request(method, url, **{"timeout": 60, **options})


get, head, post = (partial(request, method) for method in ("GET", "HEAD", "POST"))


def picture(number: int, size: int = 64) -> bytes:
    """A PNG file: eight by eight squares of colours that no other number has."""
    squares = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(squares).resize((size, size), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def data_url(file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(file).decode()


def asking(question: str, url: str) -> list[dict[str, Any]]:
    """A user's message with a picture in it, as OpenAI's clients send it."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def ask(server: Running, url: str, question: str = "what is this?", **more: Any) -> httpx.Response:
    """A question about the picture, put to the server's first model."""
    body = {"model": server.model, "messages": asking(question, url), "max_tokens": 4}
    return post(f"{server.url}/v1/chat/completions", json=body, **more)


def message(response: httpx.Response) -> str:
    """What an error says."""
    return str(response.json()["error"]["message"])


@dataclass
class Running:
    """A server that listens, and the id of its first model."""

    url: str
    port: int
    service: Service
    model: str
    uvicorn: uvicorn.Server
    loop: asyncio.AbstractEventLoop

    @property
    def scheduler(self) -> Scheduler:
        """The first model's."""
        return self.service.models[0].scheduler

    def let_pass(self, seconds: float) -> None:
        """So much later to the server: what was due by then has been done when this returns. Limits are reached
        without being waited for, and are long enough for any machine otherwise."""

        async def leap() -> None:
            now = self.loop.time
            self.loop.time = lambda: now() + seconds  # type: ignore[method-assign]
            for _ in range(3):  # rounds of the loop
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(leap(), self.loop).result(60)


@contextmanager
def running(
    model: Model,
    limits: PictureLimits | None = None,
    also: Sequence[Model] = (),
    index: Index | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """A real uvicorn server in a thread, gone when the block is left. `also`: models beside the first. `index`: what
    it searches."""
    settings = {"allowed_hosts": LOCAL_NAMES, **settings}
    listener = bind("127.0.0.1", 0)
    server, service = make_server([model, *also], Settings(**settings), limits, index)
    port = listener.getsockname()[1]
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert wait_until(lambda: server.started)
        yield Running(f"http://127.0.0.1:{port}", port, service, service.models[0].id, server, loops[0])
    finally:
        for one in (model, *also):  # a test that failed may have left it closed
            if hasattr(one, "gate"):
                one.gate.set()
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"


# Put before the command: while there is a file of that name, no model writes another token.
_HOLD = """
import time
from pathlib import Path
from blip2_chat.web.scheduler import Scheduler

advance = Scheduler._advance

def held(self):
    while Path({hold!r}).exists():
        time.sleep(0.01)
    advance(self)

Scheduler._advance = held
"""


@contextmanager
def process(
    model: str | Path, *options: str, hold: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`blip2-chat serve` as a user starts it. While there is a file `hold`, answers stand still."""
    code = "from blip2_chat.cli import main; main()"
    if hold is not None:
        code = _HOLD.format(hold=str(hold)) + code
    command = [sys.executable, "-c", code, "serve", "--port", "0"]
    server = subprocess.Popen([*command, "--model", str(model), *options], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        told = ""
        for line in server.stderr:
            told += line
            found = re.search(r"The page: (http://\S+)/", line)
            if found:
                break
        else:
            raise AssertionError(f"it did not start: {told}")
        threading.Thread(target=server.stderr.read, daemon=True).start()
        yield found[1], server
    finally:
        server.kill()
        server.wait()


def terminated(url: str, server: subprocess.Popen[str]) -> bool:
    """Sends SIGTERM; whether the server has heard it: nobody new is let in."""
    server.send_signal(signal.SIGTERM)
    return wait_until(lambda: not _listens(url))


def _listens(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60).close()
    except ConnectionError:
        return False
    return True


class Gate:
    """What a model's steps wait for: that it is set, or that so many are let through."""

    def __init__(self) -> None:
        self.passed = 0
        self._changed = threading.Condition()
        self._is_open = False
        self._free = 0

    def set(self) -> None:
        self._change(True, 0)

    def clear(self) -> None:
        self._change(False, 0)

    def let(self, steps: int) -> None:
        self._change(False, steps)

    def _change(self, is_open: bool, free: int) -> None:
        with self._changed:
            self._is_open, self._free = is_open, free
            self._changed.notify_all()

    def wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_open or self._free)
            self._free -= not self._is_open
            self.passed += 1


def gated(model: Any) -> Any:
    """The model, each of whose steps now waits for `model.gate`, which a server sets when it ends."""
    step = model.engine.step
    model.gate = Gate()

    def waiting(state: Any, tokens: Any) -> Any:
        model.gate.wait()
        return step(state, tokens)

    model.engine.step = waiting
    return model


def leaving(server: Running, asked: dict[str, Any], stays: Callable[[socket.socket], Any]) -> None:
    """A client that sends a request and leaves when `stays` is over; returns once the server knows."""
    content = json.dumps(asked).encode()
    before = server.service.places.requests
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n"
        client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
        stays(client)
    assert wait_until(lambda: server.service.places.requests == before)


def tokens_written(server: Running) -> dict[str, float]:
    """By each model, since the server started."""
    told = get(f"{server.url}/metrics").text
    found = re.findall(r'blip2_chat_tokens_total\{kind="completion",model="(.*?)"\} (\S+)', told)
    return {model: float(count) for model, count in found}


def inside(url: str) -> int:
    """Answers that are waited for or written."""
    counts = re.findall(r"blip2_chat_(?:rows|waiting)\{[^}]*\} (\d+)", get(f"{url}/metrics").text)
    return sum(map(int, counts))
