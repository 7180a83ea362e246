"""Under load: many clients at once, a full queue, clients that leave, and a server that is told to stop."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import asyncio
import contextlib
import importlib.util
import json
import random
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from typer.testing import CliRunner

from blip2_chat.cli import app as cli
from blip2_chat.installation import install_command
from blip2_chat.web.app import make_app
from blip2_chat.web.middleware.access_log import Record
from blip2_chat.web.prometheus import Metrics
from tests.support.waiting import wait_until
from tests.support.web_server import (
    MakeModel,
    Running,
    asking,
    data_url,
    gated,
    get,
    inside,
    leaving,
    picture,
    post,
    process,
    running,
    terminated,
)

CLIENTS = 64
QUESTIONS = ("what is this?", "what is on the left?", "how many are there?", "why?")


def body(server_model: str, number: int, question: str, **settings: Any) -> dict[str, Any]:
    settings = {"max_tokens": 8, **settings}
    return {"model": server_model, "messages": asking(question, data_url(picture(number))), **settings}


async def _everybody(url: str, model: str, seconds: float, at_least: int = 1) -> tuple[int, list[str], int]:
    """64 clients, each with its own pictures: answers (of each client `at_least` so many), those that were wrong,
    and how many differ."""
    cases = [(number, question) for number in range(24) for question in QUESTIONS]
    requests = [body(model, *case) for case in cases]
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def ask(case: int) -> str:
            response = await client.post("/v1/chat/completions", json=requests[case])
            response.raise_for_status()
            return str(response.json()["choices"][0]["message"]["content"])

        async def streamed(case: int) -> str:
            text = ""
            async with client.stream(
                "POST", "/v1/chat/completions", json={**requests[case], "stream": True}
            ) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
            return text

        alone = [await ask(case) for case in range(len(cases))]
        ends = time.monotonic() + seconds
        wrong: list[str] = []
        answered = 0

        async def one_client(number: int) -> None:
            nonlocal answered
            rng = random.Random(number)
            mine = 0
            while mine < at_least or time.monotonic() < ends:
                mine += 1
                case = rng.randrange(len(cases))
                text = await (streamed if rng.random() < 0.3 else ask)(case)
                answered += 1
                if text != alone[case]:
                    wrong.append(f"{cases[case]}: {text!r} is not {alone[case]!r}")

        await asyncio.gather(*[one_client(number) for number in range(CLIENTS)])
    return answered, wrong, len(set(alone))


def test_every_answer_belongs_to_its_own_picture_and_question(make_model: MakeModel) -> None:
    with running(make_model()) as server:
        answered, wrong, distinct = asyncio.run(_everybody(server.url, server.model, 6))
        assert server.scheduler.busy_rows == server.scheduler.waiting == 0
        # A stream's place is free a moment after its last byte.
        assert wait_until(lambda: server.service.places.requests == server.service.places.held_bytes == 0)
    assert wrong == []
    assert answered >= CLIENTS
    assert distinct > 48, "answers that are all the same prove nothing"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_minutes(served_folder: Path) -> None:
    """The same against a server process, whose memory must not grow."""
    with process(served_folder) as (url, server):
        model = get(f"{url}/v1/models").json()["data"][0]["id"]
        asyncio.run(_everybody(url, model, 30))
        before = _resident(server.pid)
        answered, wrong, _ = asyncio.run(_everybody(url, model, 300, at_least=16))
        grown = _resident(server.pid) - before
    assert wrong == [] and answered > 1000
    assert grown < 100_000_000, f"{grown / 1e6:.0f} MB more after {answered} answers"


def _resident(pid: int) -> int:
    """Bytes of a process in memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) * 1024


@pytest.fixture
def slow_model(make_model: MakeModel) -> Any:
    """A model whose every step waits for `model.gate`."""
    return gated(make_model())


def test_a_full_queue_says_so_and_when_to_come_again(slow_model: Any) -> None:
    with running(slow_model, slots=1, queue=2) as server:
        url = f"{server.url}/v1/chat/completions"
        threads = [
            threading.Thread(target=post, args=(url,), kwargs={"json": body("opt", n, "?")}) for n in range(3)
        ]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: server.service.places.requests == 3)
        refused = post(url, json=body("opt", 9, "?"))
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["code"] == "queue_full"
        assert get(f"{server.url}/ready").status_code == 503
        assert get(f"{server.url}/health").status_code == 200
        assert get(f"{server.url}/").status_code == 200
        # A client that waits as it was told has its turn. Nothing moves before it was refused for the first time.
        told: list[int] = []

        def heard(response: httpx.Response) -> None:
            told.append(response.status_code)
            slow_model.gate.set()

        waiting = httpx.Client(timeout=60, event_hooks={"response": [heard]})
        address = f"{server.url}/v1"
        with openai.OpenAI(base_url=address, api_key="any", max_retries=60, http_client=waiting) as client:
            answer = client.chat.completions.create(**body("opt", 9, "?"))
        assert answer.choices[0].message.content
        assert set(told[:-1]) == {429} and told[-1] == 200
        for thread in threads:
            thread.join()
        assert get(f"{server.url}/ready").json() == {"status": "ready"}
        metrics = get(f"{server.url}/metrics").text
        assert 'route="/v1/chat/completions",status="429"' in metrics


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(slow_model: Any, stream: bool) -> None:
    endless = body("opt", 1, "?", max_tokens=200, min_tokens=200, stream=stream)
    slow_model.gate.let(4)
    with running(slow_model, slots=1) as server:

        def stays(client: socket.socket) -> None:
            assert wait_until(lambda: slow_model.gate.passed == 4)
            if stream:
                assert b" 200 " in client.recv(1000)

        leaving(server, endless, stays)
        slow_model.gate.set()
        assert wait_until(lambda: server.scheduler.busy_rows == 0)
        assert slow_model.gate.passed <= 5, "it was written on, for nobody"
        assert post(f"{server.url}/v1/chat/completions", json=body("opt", 2, "?")).status_code == 200


def test_a_client_that_leaves_the_queue(slow_model: Any) -> None:
    with running(slow_model, slots=1) as server:
        url = f"{server.url}/v1/chat/completions"
        first = threading.Thread(target=post, args=(url,), kwargs={"json": body("opt", 1, "?")})
        first.start()
        assert wait_until(lambda: server.scheduler.busy_rows == 1)

        def stays(_: socket.socket) -> None:
            assert wait_until(lambda: server.scheduler.waiting == 1)

        leaving(server, body("opt", 2, "?"), stays)
        assert server.scheduler.waiting == 0
        slow_model.gate.set()
        first.join()


def test_a_stream_that_nobody_reads_ends_in_time(make_model: MakeModel) -> None:
    """Its answer is written long before; its place is what others wait for."""
    limit = 1000.0
    begun: list[dict[str, Any]] = []
    waited: list[str] = []

    async def ask(server: Running) -> None:
        asked = json.dumps(body(server.model, 1, "?", stream=True)).encode()
        messages = [{"type": "http.request", "body": asked, "more_body": False}]
        loop = asyncio.get_running_loop()
        now = loop.time

        async def receive() -> Any:
            return messages.pop() if messages else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                begun.append(message)
            else:
                loop.time = lambda: now() + limit + 10  # type: ignore[method-assign]
                await asyncio.sleep(60)
                waited.append("for its reader")

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
        scope |= {
            "query_string": b"",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 1),
            "scheme": "http",
        }
        await make_app(server.service)(scope, receive, send)

    with running(make_model(), time_limit=limit) as server:
        asyncio.run(ask(server))
        assert server.service.places.requests == 0
    assert waited == []
    (start,) = begun
    assert (b"content-type", b"text/event-stream; charset=utf-8") in start["headers"], "it was no stream"


def test_a_client_that_never_reads_is_let_go(make_model: MakeModel) -> None:
    """Some hundreds of them would be all the connections that there are."""
    count = 2000
    with running(make_model()) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.settimeout(60)
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * count)
        state = server.uvicorn.server_state
        assert wait_until(lambda: state.total_requests)

        def let_go() -> bool:
            server.let_pass(31)
            return not state.connections

        assert wait_until(let_go)
        received = 0
        with contextlib.suppress(ConnectionError):
            while data := client.recv(1 << 20):
                received += len(data)
    assert received < count * 20_000


def test_conversations_side_by_side_go_on_from_their_states(server: Running) -> None:
    """Eight conversations, question by question in turn: each finds its own beginning again."""
    talks = [asking("what is this?", data_url(picture(200 + number))) for number in range(8)]
    cached = [0] * 8
    for question in ("and why?", "since when?", ""):
        for number, messages in enumerate(talks):
            request = {"model": server.model, "messages": messages, "max_tokens": 6}
            answer = post(f"{server.url}/v1/chat/completions", json=request).json()
            usage = answer["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] >= cached[number]
            cached[number] = usage["prompt_tokens"]
            text = answer["choices"][0]["message"]["content"]
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": question}]


@pytest.fixture(scope="session")
def served_folder(make_model: MakeModel) -> Path:
    return Path(make_model().name)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_sigterm_finishes_what_runs_and_waits(served_folder: Path, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    with process(served_folder, "--slots", "2", hold=hold) as (url, server):
        results: list[dict[str, Any]] = []

        def ask(number: int) -> None:
            request = body("opt", number, "?", max_tokens=200, min_tokens=200)
            results.append(post(f"{url}/v1/chat/completions", json=request).json())

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: inside(url) == 10)
        assert terminated(url, server)
        assert not results
        hold.unlink()
        for thread in threads:
            thread.join()
        assert [answer["usage"]["completion_tokens"] for answer in results] == [200] * 10
        assert server.wait(60) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(("kind", "told"), [("http", 503), ("lifespan", "lifespan.shutdown")])
def test_shutting_down_logs_no_error(kind: str, told: Any) -> None:
    """uvicorn cancels all that runs at a second Ctrl-C, and would show a traceback for each."""
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append((await receive())["type"])

    async def send(message: Any) -> None:
        heard.append(message.get("status"))

    async def never() -> Any:
        await asyncio.Event().wait()

    async def cancelled() -> None:
        record = Record(app, Metrics({}, int), str)
        scope = {"type": kind, "method": "POST", "path": "/", "headers": []}
        task = asyncio.create_task(record(scope, never, send))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    asyncio.run(cancelled())
    assert heard[0] == told


def test_a_port_in_use_is_reported(served_folder: Path, server: Running) -> None:
    result = CliRunner().invoke(cli, ["serve", "--port", str(server.port), "--model", str(served_folder)])
    assert result.exit_code == 1
    assert f"port {server.port} cannot be bound" in result.output


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    module = sys.modules["blip2_chat.cli.serve"]  # the package's own `serve` is the command
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "fastapi" else real(name))
    result = CliRunner().invoke(cli, ["serve"])
    assert result.exit_code == 1
    assert install_command("web") in result.output
