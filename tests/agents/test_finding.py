"""match and search of `blip2-chat mcp`, with the MCP SDK's own client through stdin and stdout."""

from __future__ import annotations

from tests.support.extras import require

require("test-mcp")
require("test-search")
require("test-web")

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.server.mcpserver import MCPServer

from blip2_chat.agents.finding import add_match, add_search
from blip2_chat.agents.loading import Loading
from blip2_chat.agents.pictures import Pictures
from blip2_chat.agents.tools import make_server
from blip2_chat.search.index import Index
from tests.agents.test_tools import called, refused, with_client
from tests.support.searched import index_of_pictures
from tests.support.web_server import data_url, picture


@dataclass
class Photos:
    """An index of twelve pictures, by a random model, which is at `model`."""

    index: Index
    address: str
    model: str
    folder: Path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Photos]:
    folder = tmp_path_factory.mktemp("agents")
    index = index_of_pictures(folder)
    yield Photos(
        index, str(folder / "photos.index"), str(folder / "retriever"), folder / "private" / "photos"
    )
    index.retriever.close()


def server(*options: str) -> StdioServerParameters:
    command = ["-c", "from blip2_chat.cli import main; main()", "mcp", "--threads", "1", *options]
    return StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))


def test_search_and_match_over_an_index(photos: Photos) -> None:
    by_text = photos.index.search("a red car", top=3)
    like = photos.index.search(like=str(photos.folder / "p03.png"), top=2)
    ranked = photos.index.retriever.rank(str(photos.folder / "p03.png"), ["a dog", "a red car"])

    async def work(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"caption", "ask", "choose", "match", "search"}
        assert "context" not in tools["search"].input_schema["properties"]
        reported: list[str | None] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            reported.append(message)

        asked = {"text": "a red car", "top": 3}
        found = (await client.call_tool("search", asked, progress_callback=progress)).structured_content
        assert found is not None and found["indexed"] == 12
        assert "reading candidates" in reported
        assert [one["picture"] for one in found["pictures"]] == [hit.file for hit in by_text]
        for one, hit in zip(found["pictures"], by_text, strict=True):
            assert one["probability"] == pytest.approx(hit.probability, abs=1e-5)
            assert one["can_be_opened"]
        # What was found can be given to the other tools.
        told = await called(client, "match", picture=found["pictures"][0]["picture"], texts=["a dog"])
        assert 0 <= told["ranked"][0]["probability"] <= 1
        near = await called(client, "search", like="p03.png", top=2)
        assert [one["picture"] for one in near["pictures"]] == [hit.file for hit in like]
        assert near["pictures"][0]["picture"] == str(photos.folder / "p03.png")
        told = await called(client, "match", picture=data_url(picture(3)), texts=["a dog", "a red car"])
        assert [one["text"] for one in told["ranked"]] == [one.text for one in ranked]
        for one, expected in zip(told["ranked"], ranked, strict=True):
            assert one["probability"] == pytest.approx(expected.probability, abs=1e-5)
            assert one["similarity"] == pytest.approx(expected.similarity, abs=1e-5)
        assert "text or like" in await refused(client, "search")
        assert "text or like" in await refused(client, "search", text="a dog", like="p03.png")
        assert "there are: " in await refused(client, "search", like="cat.png")
        assert "is empty" in await refused(client, "match", picture="p03.png", texts=[" "])

    with_client(work, server("--root", str(photos.folder), "--index", photos.address))


def over(photos: Photos, roots: Sequence[Path], *, search: bool) -> Any:
    """A server in this process, which the SDK's client reaches without a process of its own."""

    def no_model(progress: Any) -> NoReturn:
        raise AssertionError("nothing here asks for the chat model")

    allowed = Pictures(roots)
    made = make_server(Loading(no_model), allowed)
    index = Loading(lambda progress: photos.index)
    add_match(made, index, allowed)
    if search:
        add_search(made, index, allowed)
    return made


def test_what_is_indexed_outside_of_the_roots_is_named_and_not_opened(photos: Photos) -> None:
    async def work(client: Client) -> None:
        found = await called(client, "search", text="a dog", top=1)
        (one,) = found["pictures"]
        assert Path(one["picture"]).parent == photos.folder and not one["can_be_opened"]
        assert "no --root was given" in await refused(
            client, "match", picture=one["picture"], texts=["a dog"]
        )

    with_client(work, over(photos, [], search=True))


def test_match_without_an_index(photos: Photos) -> None:
    async def work(client: Client) -> None:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == {"caption", "ask", "choose", "match"}
        told = await called(client, "match", picture="p03.png", texts=["a dog"])
        assert told["ranked"][0]["text"] == "a dog"

    with_client(work, over(photos, [photos.folder], search=False))


def test_an_index_that_is_not_there_is_an_error_of_the_tool(tmp_path: Path) -> None:
    gone = str(tmp_path / "none.index")

    async def work(client: Client) -> None:
        assert gone in await refused(client, "search", text="a dog")

    made = MCPServer("one tool")
    add_search(made, Loading(lambda progress: Index.open(gone)), Pictures([]))
    with_client(work, made)
