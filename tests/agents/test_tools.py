"""`blip2-chat mcp` with the MCP SDK's own client: through stdin and stdout, and over HTTP."""

from __future__ import annotations

from tests.support.extras import require

require("test-mcp")

import asyncio
import base64
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

import blip2_chat
from tests.support.waiting import wait_until

SAMPLES = Path(blip2_chat.__file__).parent / "demo" / "samples"
CAPTIONS = {
    one["picture"]: one["caption"] for one in json.loads((SAMPLES / "samples.json").read_text("utf-8"))
}
COMMAND = ["-c", "from blip2_chat.cli import main; main()", "mcp", "--root", str(SAMPLES), "--threads", "1"]
STDIO = StdioServerParameters(command=sys.executable, args=COMMAND, env=dict(os.environ))


def with_client(work: Callable[[Client], Awaitable[None]], server: Any = STDIO) -> None:
    async def run() -> None:
        async with Client(server, read_timeout_seconds=120) as client:
            await work(client)

    asyncio.run(run())


async def called(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)  # type: ignore[union-attr]


def test_the_tools_over_stdio() -> None:
    async def work(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"caption", "ask", "choose"}
        for tool in tools.values():
            assert tool.description and tool.annotations and tool.annotations.read_only_hint
            assert "context" not in tool.input_schema["properties"]
        reported: list[tuple[float, float | None, str | None]] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            reported.append((done, total, message))

        names = list(CAPTIONS)[:2]
        result = await client.call_tool("caption", {"pictures": names}, progress_callback=progress)
        told = result.structured_content
        assert told is not None
        assert [one["caption"] for one in told["pictures"]] == [CAPTIONS[one] for one in names]
        assert (2, 2, "describing") in reported
        answer = await called(client, "ask", picture="dog-and-apple.png", question="what is on the left?")
        assert answer["answer"] == "a dog"
        data = base64.b64encode((SAMPLES / "dog-and-apple.png").read_bytes()).decode()
        chosen = await called(
            client,
            "choose",
            picture=f"data:image/png;base64,{data}",
            question="what is on the right?",
            choices=["a dog", "an apple", "a car"],
        )
        assert chosen["answer"] == "an apple" == chosen["ranked"][0]["answer"]
        assert sum(one["probability"] for one in chosen["ranked"]) == pytest.approx(1, abs=1e-4)

    with_client(work)


def test_errors_tell_a_model_what_to_do() -> None:
    async def work(client: Client) -> None:
        question = {"question": "what is this?"}
        assert "there are: " in await refused(client, "ask", picture="cat.png", **question)
        assert "dog-and-apple.png" in await refused(client, "ask", picture="cat.png", **question)
        assert "outside of the allowed folders" in await refused(
            client, "ask", picture="/etc/passwd", **question
        )
        assert "not fetched" in await refused(client, "ask", picture="https://example.com/a.png", **question)
        assert "the question is empty" in await refused(client, "ask", picture="farm.png", question=" ")
        twice = await refused(client, "choose", picture="farm.png", question="?", choices=["a", "a"])
        assert "given twice" in twice
        assert "choices" in await refused(client, "choose", picture="farm.png", question="?", choices=["a"])
        # One picture of several is no reason to fail.
        told = await called(client, "caption", pictures=["farm.png", "samples.json", "../config.json"])
        assert told["pictures"][0]["caption"] == CAPTIONS["farm.png"]
        assert "not a picture" in told["pictures"][1]["error"] or "picture" in told["pictures"][1]["error"]
        assert "outside" in told["pictures"][2]["error"]
        assert "outside" in await refused(client, "caption", pictures=["../config.json"])

    with_client(work)


def test_a_model_that_cannot_be_loaded_is_an_error_of_the_tool() -> None:
    server = StdioServerParameters(
        command=sys.executable, args=[*COMMAND, "--model", str(SAMPLES)], env=dict(os.environ)
    )

    async def work(client: Client) -> None:
        assert len((await client.list_tools()).tools) == 3
        told = await refused(client, "ask", picture="farm.png", question="what is this?")
        assert "config.json" in told or str(SAMPLES) in told

    with_client(work, server)


def test_over_http() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, *COMMAND, "--http", "--port", str(port)], stderr=subprocess.PIPE
    )

    def listens() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    async def work(client: Client) -> None:
        answer = await called(client, "ask", picture="dog-and-apple.png", question="what is on the left?")
        assert answer["answer"] == "a dog"

    try:
        assert wait_until(listens)
        with_client(work, f"http://127.0.0.1:{port}/mcp")
        import httpx

        headers = {"Accept": "application/json, text/event-stream", "Host": "evil.example"}
        rebound = httpx.post(f"http://127.0.0.1:{port}/mcp", json={}, headers=headers, timeout=60)
        assert rebound.status_code == 421
        headers = {"Accept": "application/json, text/event-stream", "Origin": "https://evil.example"}
        crossed = httpx.post(f"http://127.0.0.1:{port}/mcp", json={}, headers=headers, timeout=60)
        assert crossed.status_code == 403
    finally:
        server.kill()
        server.wait()


def test_a_root_that_is_no_folder() -> None:
    done = subprocess.run(
        [sys.executable, *COMMAND, "--root", "/no/such/folder"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "Error: there is no folder /no/such/folder; give one that has pictures\n"


@pytest.mark.slow
def test_the_documents_example() -> None:
    root = Path(__file__).parents[2]
    (code,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "mcp.md").read_text("utf-8"), re.DOTALL)
    # The SDK's client passes on only some of the environment.
    started = f"env=dict(__import__('os').environ), command={sys.executable!r}, args=['-m', 'blip2_chat', "
    code = code.replace('command="blip2-chat", args=[', started)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout == "a dog\n", done.stderr
