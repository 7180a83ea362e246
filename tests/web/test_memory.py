"""What hostile uploads take of threads and memory, and give back."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import asyncio
import io
import json
import random
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import psutil
import pytest
from PIL import Image

from blip2_chat.errors import PictureError
from blip2_chat.images import Picture, PictureLimits, Preprocess, open_picture
from blip2_chat.images.data_url import unquoted
from blip2_chat.web.memory import _trim
from blip2_chat.web.pictures.open import Pictures
from blip2_chat.web.pictures.workers import Workers
from tests.support.waiting import wait_until
from tests.support.web_server import Running, data_url, picture, post, process


@pytest.mark.parametrize("seed", range(20))
def test_escapes_are_those_of_urllib(seed: int) -> None:
    text = "".join(random.Random(seed).choices("%%%0aFg é", k=5000))
    assert unquoted(text) == unquote_to_bytes(text)


def test_escapes_across_stretches_and_their_memory() -> None:
    text = "a" + "%41" * 1_000_000 + "%4"
    expected = b"a" + b"A" * 1_000_000 + b"%4"
    tracemalloc.start()
    try:
        assert unquoted(text) == expected
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_percent_encoding_and_broken_lines_are_taken(server: Running) -> None:
    packed = data_url(picture(5)).partition(",")[2]
    lines = "\r\n".join(packed[place : place + 76] for place in range(0, len(packed), 76))
    urls = ["data:image/png," + quote_from_bytes(picture(5)), "data:image/png;base64," + lines]
    answer = post(
        f"{server.url}/v1/caption",
        content=json.dumps({"pictures": urls, "max_tokens": 2}),
        headers={"Content-Type": "application/json"},
    )
    first, second = answer.json()["data"]
    assert first["error"] is None and first["caption"] == second["caption"]


def test_one_client_cannot_hold_all_threads_and_what_nobody_waits_for_never_starts() -> None:
    gate = threading.Event()
    started: list[int] = []

    def slow(number: int) -> None:
        started.append(number)
        gate.wait(60)

    async def check() -> None:
        workers = Workers(3, "test")
        held = [asyncio.create_task(workers.run("a", slow, number)) for number in range(5)]
        while len(started) < 2:
            await asyncio.sleep(0.001)
        # They leave; two threads are still at work for them, and a third is not given to the same client.
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        later = asyncio.create_task(workers.run("a", slow, 9))
        assert await asyncio.wait_for(workers.run("b", lambda: "answered"), 60) == "answered"
        assert started == [0, 1]
        gate.set()
        await later
        assert started == [0, 1, 9]
        workers.close()

    asyncio.run(check())
    assert wait_until(gate.is_set)


def test_decoding_ends_when_its_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    large = io.BytesIO()
    Image.effect_noise((3000, 3000), 100).save(large, "PNG")
    began = threading.Event()
    ended: list[str | None] = []

    def observed(source: object, **how: Any) -> Picture:
        asked = how["is_abandoned"]

        def is_abandoned() -> bool:
            # The client leaves at the third block: that cannot be missed, however fast this machine is.
            blocks.append(None)
            if len(blocks) == 3:
                began.set()
                assert wait_until(asked)
            return bool(asked())

        blocks: list[None] = []
        try:
            return open_picture(source, **{**how, "is_abandoned": is_abandoned})  # type: ignore[arg-type]
        except PictureError as error:
            ended.append(error.fault)
            raise

    monkeypatch.setattr("blip2_chat.web.pictures.open.open_picture", observed)

    async def check() -> None:
        pictures = Pictures(PictureLimits())
        request = asyncio.create_task(pictures.open(large.getvalue(), Preprocess()))
        await asyncio.to_thread(began.wait, 60)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        assert await asyncio.to_thread(wait_until, lambda: ended)
        pictures.close()

    asyncio.run(check())
    assert ended == ["abandoned"]


@pytest.mark.skipif(sys.platform != "linux" or _trim is None, reason="only glibc keeps what was freed")
def test_memory_of_hostile_uploads_is_given_back() -> None:
    """Of a server that runs alone, after pictures that unpack to a hundred times their size, whole and damaged."""
    large = io.BytesIO()
    Image.effect_noise((3000, 3000), 40).save(large, "JPEG", quality=30)
    whole, damaged = large.getvalue(), large.getvalue()[:-5000]

    def upload(url: str, number: int) -> None:
        # Each another picture, or the server would know it.
        content = (damaged if number % 3 == 0 else whole) + bytes([number])
        answer = post(f"{url}/v1/caption", files={"pictures": content}, data={"max_tokens": "1"})
        assert answer.status_code == (400 if number % 3 == 0 else 200), answer.text

    with process("demo") as (url, server), ThreadPoolExecutor(6) as pool:
        memory = psutil.Process(server.pid).memory_info
        for number in range(2):
            upload(url, number)
        before = memory().rss
        list(pool.map(partial(upload, url), range(2, 26)))
        # The peak was several times this much above.
        assert wait_until(lambda: memory().rss < before + 50_000_000), memory().rss - before
