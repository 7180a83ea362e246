"""What the tests of the server share: pictures, messages, and real servers on 127.0.0.1."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from blip2_chat.images import PictureLimits
from blip2_chat.model import Model
from blip2_chat.web.scheduler import Scheduler
from blip2_chat.web.server import LOCAL_NAMES, bind, make_server
from blip2_chat.web.service import Service
from blip2_chat.web.settings import Settings

MakeModel = Callable[..., Model]


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


@dataclass
class Running:
    """A server that listens, and the id of its first model."""

    url: str
    port: int
    service: Service
    model: str

    @property
    def scheduler(self) -> Scheduler:
        """The first model's."""
        return self.service.models[0].scheduler


@contextmanager
def running(
    model: Model, limits: PictureLimits | None = None, also: Sequence[Model] = (), **settings: Any
) -> Iterator[Running]:
    """A real uvicorn server in a thread, gone when the block is left. `also`: models beside the first."""
    settings = {"allowed_hosts": LOCAL_NAMES, **settings}
    listener = bind("127.0.0.1", 0)
    server, service = make_server([model, *also], Settings(**settings), limits)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield Running(f"http://127.0.0.1:{port}", port, service, service.models[0].id)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"


@contextmanager
def process(model: str | Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`blip2-chat serve` as a user starts it."""
    command = [sys.executable, "-c", "from blip2_chat.cli import main; main()", "serve", "--port", "0"]
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


def gated(model: Any) -> Any:
    """The model, each of whose steps now waits for `model.gate`."""
    step = model.engine.step
    model.gate = threading.Event()

    def waiting(state: Any, tokens: Any) -> Any:
        model.gate.wait(60)
        time.sleep(0.01)
        return step(state, tokens)

    model.engine.step = waiting
    return model


def tokens_written(server: Running) -> dict[str, float]:
    """By each model, since the server started."""
    told = httpx.get(f"{server.url}/metrics").text
    found = re.findall(r'blip2_chat_tokens_total\{kind="completion",model="(.*?)"\} (\S+)', told)
    return {model: float(count) for model, count in found}


def inside(url: str) -> int:
    """Answers that are waited for or written."""
    counts = re.findall(r"blip2_chat_(?:rows|waiting)\{[^}]*\} (\d+)", httpx.get(f"{url}/metrics").text)
    return sum(map(int, counts))


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return condition()
