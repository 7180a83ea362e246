"""What the tests of the server share: pictures, messages, and real servers on 127.0.0.1."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from blip2_chat.images import PictureLimits
from blip2_chat.model import Model
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
    """A server that listens."""

    url: str
    port: int
    service: Service
    model: str


@contextmanager
def running(model: Model, limits: PictureLimits | None = None, **settings: Any) -> Iterator[Running]:
    """A real uvicorn server in a thread, gone when the block is left."""
    settings = {"allowed_hosts": LOCAL_NAMES, **settings}
    listener = bind("127.0.0.1", 0)
    server, service = make_server(model, Settings(**settings), limits)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield Running(f"http://127.0.0.1:{port}", port, service, service.model_id)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return condition()
