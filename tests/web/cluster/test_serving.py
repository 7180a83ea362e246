"""`blip2-chat serve --ray`, as a user starts it: two replicas on this machine, real clients, replicas that die."""

from __future__ import annotations

from tests.support.extras import require

require("test-ray")
require("test-web")

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

import blip2_chat
from tests.support.waiting import wait_until
from tests.support.web_server import MakeModel, asking, data_url, get, picture, post, process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="stops and kills processes by their ids"),
]

KEY = "a key of the tests"
HEADERS = {"Authorization": f"Bearer {KEY}"}
SLOTS, QUEUE = 4, 4


@dataclass
class Front:
    """The server, and the model that its replicas hold."""

    url: str
    pid: int
    folder: Path

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=120)

    def ask(self, number: int, question: str = "what is this?", **settings: Any) -> Any:
        given = {"max_tokens": 8, **settings}
        messages: Any = asking(question, data_url(picture(number)))
        return self.client.chat.completions.create(model=self.folder.name, messages=messages, **given)

    def counted(self, name: str) -> dict[int, float]:
        """A metric of each replica, by its process id."""
        text = get(f"{self.url}/metrics", headers=HEADERS).text
        found = re.findall(rf'^blip2_chat_{name}{{.*replica="[^"]*:(\d+)".*}} (\S+)$', text, re.MULTILINE)
        return {int(pid): float(value) for pid, value in found}

    def replicas(self) -> list[int]:
        return list(self.counted("steps"))

    def who_answers(self, number: int) -> int:
        """The process that knows this picture: the one that answers about it."""
        before = self.counted("steps")
        self.ask(number)
        (pid,) = [pid for pid, steps in self.counted("steps").items() if steps > before[pid]]
        return pid

    def wait_for(self, replicas: int) -> None:
        def all_there() -> bool:
            ready = get(f"{self.url}/ready")
            return ready.status_code == 200 and ready.json()["replicas"] == len(self.replicas()) == replicas

        assert wait_until(all_there, 240)


@pytest.fixture(scope="module")
def folder(make_model: MakeModel) -> Path:
    return Path(make_model().name)


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Front]:
    options = ("--ray", "--replicas", "2", "--cpus", "0.5", "--slots", str(SLOTS), "--queue", str(QUEUE))
    with process(folder, *options, "--api-key", KEY) as (url, server):
        yield Front(url, server.pid, folder)
        server.send_signal(signal.SIGTERM)
        server.wait(120)


@pytest.fixture
def front(cluster: Front) -> Front:
    """With all of its replicas, whatever the last test did to them."""
    cluster.wait_for(2)
    return cluster


def test_answers_are_those_of_the_model_and_a_picture_stays_with_its_replica(front: Front) -> None:
    model = blip2_chat.load(front.folder, threads=1)
    expected = [str(model.ask(picture(n), "what is this?", max_new_tokens=8)) for n in range(8)]
    model.close()
    answers = [front.ask(number) for number in range(8)]
    assert [one.choices[0].message.content for one in answers] == expected
    again = [front.ask(number) for number in range(8)]
    assert [one.choices[0].message.content for one in again] == expected
    # Nothing of the prompt is read a second time but its last token: the replica that knows the picture answered.
    for one in again:
        assert one.usage.prompt_tokens_details.cached_tokens >= one.usage.prompt_tokens - 1
    assert all(front.counted("steps").values()), "one of the replicas had nothing to do"


def test_a_stream_has_the_same_text_and_its_usage(front: Front) -> None:
    whole = front.ask(3, max_tokens=20)
    chunks = list(front.ask(3, max_tokens=20, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    ndjson = post(
        f"{front.url}/api/generate",
        headers=HEADERS,
        json={"images": [data_url(picture(3)).partition(",")[2]], "prompt": "what is this?"},
    )
    assert ndjson.headers["content-type"].startswith("application/x-ndjson")
    assert ndjson.text.count("\n") > 1


def test_the_front_keeps_what_serve_promises(front: Front) -> None:
    body = {"messages": asking("?", data_url(picture(1)))}
    chat = f"{front.url}/v1/chat/completions"
    assert get(f"{front.url}/health").json() == {"status": "ok"}
    assert post(chat, json=body).status_code == 401
    assert post(chat, json=body, headers={**HEADERS, "Host": "evil.example"}).status_code == 400
    assert post(chat, json=body, headers={**HEADERS, "Origin": "https://evil.example"}).status_code == 403
    big = post(chat, content=b" " * (33 << 20), headers={**HEADERS, "Content-Type": "application/json"})
    assert big.status_code == 413
    page = get(f"{front.url}/")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    assert [one.id for one in front.client.models.list()] == [front.folder.name]
    assert "securitySchemes" in get(f"{front.url}/openapi.json", headers=HEADERS).json()["components"]
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here"):
        front.client.chat.completions.create(model="other", messages=asking("?", "data:,"))  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="picture"):
        front.client.chat.completions.create(
            model=front.folder.name,
            messages=asking("?", "data:image/png;base64,aGVsbG8="),  # type: ignore[arg-type]
        )
    files = {"pictures": ("p.png", picture(5), "image/png")}
    captioned = post(f"{front.url}/v1/caption", files=files, headers=HEADERS).json()
    assert captioned["data"][0]["name"] == "p.png" and captioned["data"][0]["error"] is None


@contextlib.contextmanager
def stopped(*processes: int) -> Iterator[None]:
    """They stand still, until the block is left."""
    for one in processes:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


def test_requests_of_one_replica_are_one_batch_and_what_is_too_much_is_refused(front: Front) -> None:
    pid = front.who_answers(1)
    before = front.counted("steps")[pid]
    places = 2 * SLOTS + QUEUE
    with ThreadPoolExecutor(places) as pool:
        with stopped(*front.replicas()):
            waiting = [
                pool.submit(front.ask, 1, max_tokens=40, extra_body={"min_tokens": 40}) for _ in range(places)
            ]
            assert wait_until(lambda: get(f"{front.url}/ready").status_code == 503)
            with pytest.raises(openai.RateLimitError) as refused:
                front.ask(1)
            assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
        written = sum(one.result().usage.completion_tokens for one in waiting)
    assert written == places * 40
    # One after another they would be a step for each token.
    assert front.counted("steps")[pid] - before <= written / 2


def test_a_client_that_leaves_frees_its_slot(front: Front) -> None:
    with front.ask(2, stream=True, max_tokens=200, extra_body={"min_tokens": 200}) as stream:
        next(iter(stream))
        assert sum(front.counted("rows").values()) == 1
    assert wait_until(lambda: sum(front.counted("rows").values()) == 0)
    written = sum(front.counted("tokens_total").values())
    assert written < 10_000


def test_a_replica_killed_before_the_first_byte_costs_nothing(front: Front) -> None:
    expected = front.ask(4).choices[0].message.content
    pid = front.who_answers(4)
    with ThreadPoolExecutor(3) as pool, stopped(pid):
        waiting = [pool.submit(front.ask, 4) for _ in range(3)]
        assert wait_until(lambda: inside(front) == 3)
        os.kill(pid, signal.SIGKILL)
        assert [one.result().choices[0].message.content for one in waiting] == [expected] * 3


def inside(front: Front) -> float:
    """Requests that the front holds."""
    text = get(f"{front.url}/metrics", headers=HEADERS).text
    return float(re.findall(r"^blip2_chat_current_requests (\S+)$", text, re.MULTILINE)[0])


def test_a_replica_killed_in_the_middle_ends_its_streams_with_an_error_and_no_others(front: Front) -> None:
    numbers = range(10, 30)
    by_replica: dict[int, int] = {}
    for number in numbers:
        by_replica.setdefault(front.who_answers(number), number)
    (one, mine), (other, theirs) = by_replica.items()
    long = {"stream": True, "max_tokens": 200, "extra_body": {"min_tokens": 200}}
    dying, living = front.ask(mine, **long), front.ask(theirs, **long)
    next(iter(dying)), next(iter(living))
    os.kill(one, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="the machine that was to answer is gone"):
        list(dying)
    assert list(living)[-1].choices[0].finish_reason == "length"
    # Its pictures are answered by the other one until it is replaced.
    assert front.ask(mine).choices[0].message.content
    front.wait_for(2)
    assert one not in front.replicas() and other in front.replicas()


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="it did not start") as fault, process(tmp_path, "--ray"):
        pass
    lines = str(fault.value).partition("it did not start: ")[2].strip().splitlines()
    assert "Traceback" not in str(fault.value)
    assert str(tmp_path) in lines[-1]
