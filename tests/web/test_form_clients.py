"""Structured output with the clients that people use: openai, instructor, pydantic-ai, langchain."""

from __future__ import annotations

from tests.support.extras import require

require("test-clients")

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import instructor
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import blip2_chat
from tests.support.web_server import Running, asking, data_url, running

SAMPLE = Path(blip2_chat.__file__).parent / "demo" / "samples" / "dog-and-apple.png"
MESSAGES: Any = asking("what is on the left?", data_url(SAMPLE.read_bytes()))


class Thing(str, Enum):
    car = "a car"
    dog = "a dog"
    apple = "an apple"


class Answer(BaseModel):
    thing: Thing


class Scene(BaseModel):
    """Several questions about one picture."""

    left: Literal["a dog", "an apple"] = Field(description="what is on the left?")
    right: Literal["a dog", "an apple"] | None = Field(description="what is on the right?")
    count: int = Field(description="how many things are there?", ge=0, le=5)
    note: str = Field(description="what is on the left?")


RIGHT = Scene(left="a dog", right="an apple", count=2, note="a dog")


class Essay(BaseModel):
    chapters: list[Answer]


@pytest.fixture(scope="module")
def embedded() -> Iterator[Running]:
    model = blip2_chat.load(threads=1)
    with running(model) as server:
        yield server
    model.close()


@pytest.fixture(scope="module")
def client(embedded: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{embedded.url}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("completions", ["chat", "beta"])
def test_openai_parse(client: openai.OpenAI, completions: str) -> None:
    api = client.beta.chat.completions if completions == "beta" else client.chat.completions
    made = api.parse(model="demo", messages=MESSAGES, response_format=Answer)
    assert made.choices[0].message.parsed == Answer(thing=Thing.dog)
    assert (
        api.parse(model="demo", messages=MESSAGES, response_format=Scene).choices[0].message.parsed == RIGHT
    )


def test_openai_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="demo", messages=MESSAGES, response_format=Answer) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_completion().choices[0].message.parsed == Answer(thing=Thing.dog)
    assert "content.delta" in kinds and "content.done" in kinds


def test_openai_tools(client: openai.OpenAI) -> None:
    made = client.chat.completions.parse(
        model="demo",
        messages=MESSAGES,
        tools=[openai.pydantic_function_tool(Answer)],
        tool_choice="required",
    )
    (call,) = made.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Answer(thing=Thing.dog)


class Tags(BaseModel):
    tags: list[str]


def test_openai_list(client: openai.OpenAI) -> None:
    """The things that the answer names."""
    made = client.chat.completions.parse(model="demo", messages=MESSAGES, response_format=Tags)
    assert made.choices[0].message.parsed == Tags(tags=["dog"])


def test_another_form_is_one_clear_line(client: openai.OpenAI) -> None:
    with pytest.raises(
        openai.BadRequestError,
        match="chapters: the items of a list must be plain strings; supported are enum",
    ):
        client.chat.completions.parse(model="demo", messages=MESSAGES, response_format=Essay)


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
@pytest.mark.parametrize("expected", [Answer(thing=Thing.dog), RIGHT])
def test_instructor(embedded: Running, mode: instructor.Mode, expected: BaseModel) -> None:
    with openai.OpenAI(base_url=f"{embedded.url}/v1", api_key="any", max_retries=0) as client:
        patched = instructor.from_openai(client, mode=mode)
        made = patched.chat.completions.create(
            model="demo", messages=MESSAGES, response_model=type(expected), max_retries=1
        )
    assert made.model_dump() == expected.model_dump()


@pytest.mark.parametrize("wrap", [ToolOutput, NativeOutput])
@pytest.mark.parametrize("expected", [Answer(thing=Thing.dog), RIGHT])
def test_pydantic_ai(embedded: Running, wrap: Any, expected: BaseModel) -> None:
    provider = OpenAIProvider(base_url=f"{embedded.url}/v1", api_key="any")
    agent = Agent(OpenAIChatModel("demo", provider=provider), output_type=wrap(type(expected)))
    picture = BinaryContent(SAMPLE.read_bytes(), media_type="image/png")
    assert agent.run_sync(["what is on the left?", picture]).output == expected


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("expected", [Answer(thing=Thing.dog), RIGHT])
def test_langchain(embedded: Running, method: Any, expected: BaseModel) -> None:
    chat = ChatOpenAI(model="demo", base_url=f"{embedded.url}/v1", api_key="any", max_retries=0)  # type: ignore[arg-type]
    structured = chat.with_structured_output(type(expected), method=method)
    assert structured.invoke([HumanMessage(content=MESSAGES[0]["content"])]) == expected
