"""`/v1/responses` with the real `openai` client, whole and streamed."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from blip2_chat.model import Model
from tests.support.web_server import MakeModel, Running, data_url, picture, post

QUESTION = "what is this?"
URL = data_url(picture(1))


def asking(question: str, url: str = URL) -> Any:
    image = {"type": "input_image", "image_url": url, "detail": "auto"}
    return [{"role": "user", "content": [{"type": "input_text", "text": question}, image]}]


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def reference(make_model: MakeModel) -> Model:
    """The model behind the server, once more, to ask without it."""
    return make_model()


def test_an_answer(client: openai.OpenAI, server: Running, reference: Model) -> None:
    expected = reference.ask(picture(1), QUESTION, max_new_tokens=200)
    made = client.responses.create(
        model=server.model, input=asking(QUESTION), max_output_tokens=200, store=False
    )
    assert made.output_text == expected.text
    assert made.status == ("completed" if expected.finish_reason == "stop" else "incomplete")
    assert made.object == "response" and made.id.startswith("resp_") and made.error is None
    (item,) = made.output
    assert item.type == "message" and item.role == "assistant" and item.status == made.status
    assert made.usage is not None
    assert made.usage.input_tokens == expected.prompt_tokens
    assert made.usage.output_tokens == len(expected.tokens)
    assert made._request_id, "the header x-request-id"


def test_an_answer_that_is_cut(client: openai.OpenAI, server: Running) -> None:
    made = client.responses.create(model=server.model, input=asking(QUESTION), max_output_tokens=2)
    assert made.status == "incomplete" and made.incomplete_details is not None
    assert made.incomplete_details.reason == "max_output_tokens"
    assert made.usage is not None and made.usage.output_tokens == 2


ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


def test_the_events_of_a_stream_in_the_official_order(client: openai.OpenAI, server: Running) -> None:
    asked: Any = {"model": server.model, "input": asking(QUESTION), "max_output_tokens": 30}
    whole = client.responses.create(**asked)
    events: list[Any] = list(client.responses.create(**asked, stream=True))
    kinds = [event.type for event in events]
    assert list(dict.fromkeys(kinds)) == [*ORDER, f"response.{whole.status}"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text and len(deltas) > 3
    assert events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage == whole.usage
    assert len({event.item_id for event in events if hasattr(event, "item_id")}) == 1


def test_the_clients_stream_helper(client: openai.OpenAI, server: Running) -> None:
    """On an answer that ends by itself."""

    class Kind(BaseModel):
        kind: Literal["red", "blue"]

    with client.responses.stream(model=server.model, input=asking(QUESTION), text_format=Kind) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_parsed is not None


def test_a_conversation_without_a_store(client: openai.OpenAI, server: Running, reference: Model) -> None:
    """The answer is sent back as it came, ids and all."""
    chat = reference.chat(picture(1), max_new_tokens=6)
    asked: Any = {"model": server.model, "max_output_tokens": 6, "instructions": "Be brief."}
    history = asking(QUESTION)
    first = client.responses.create(input=history, **asked)
    assert first.output_text == chat.ask(QUESTION).text
    history += [*(item.model_dump() for item in first.output), {"role": "user", "content": "and why?"}]
    assert client.responses.create(input=history, **asked).output_text == chat.ask("and why?").text


class Answer(BaseModel):
    colour: Literal["red", "dark blue", "green"]


def test_forms(client: openai.OpenAI, server: Running, reference: Model) -> None:
    best = reference.choose(picture(1), QUESTION, ["red", "dark blue", "green"])[0][0]
    made = client.responses.parse(model=server.model, input=asking(QUESTION), text_format=Answer)
    assert made.output_parsed == Answer.model_validate({"colour": best})
    (told,) = made.blip2_chat["choices"]  # type: ignore[attr-defined]
    assert told["ranked"][0]["value"] == best


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called(
    client: openai.OpenAI, server: Running, reference: Model, stream: bool
) -> None:
    best = reference.choose(picture(1), QUESTION, ["red", "dark blue", "green"])[0][0]
    tool = {"type": "function", "name": "paint", "parameters": Answer.model_json_schema(), "strict": True}
    asked: Any = {"model": server.model, "input": asking(QUESTION), "tools": [tool]}
    asked["tool_choice"] = {"type": "function", "name": "paint"}
    made: Any = client.responses.create(**asked, stream=stream)
    if stream:
        events = list(made)
        assert [event.type for event in events] == [
            *ORDER[:3],
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
        made = events[-1].response
    (call,) = made.output
    assert (call.type, call.name) == ("function_call", "paint") and call.call_id
    assert json.loads(call.arguments) == {"colour": best}


@pytest.mark.parametrize(
    ("changes", "param", "told"),
    [
        ({"input": "what is this?"}, "input", "there is no picture: add an input_image part"),
        ({"input": []}, "input", "no message"),
        (
            {"input": asking(QUESTION) * 2 + [{"role": "assistant", "content": "!"}]},
            "input",
            "the last message",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input", "keeps no files"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input", "input_file"),
        ({"input": asking("why? " * 2000)}, "input", "shorten it"),
        ({"store": True}, "store", "send store: false"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation as input"),
        ({"background": True}, "background", "not supported"),
        ({"top_logprobs": 3}, "top_logprobs", "not supported"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format", "the type must be json_schema"),
        ({"tools": [{"type": "web_search"}]}, "tools", "functions"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"model": "gpt-4o"}, None, "there is no model"),
    ],
)
def test_what_is_refused(server: Running, changes: dict[str, Any], param: str | None, told: str) -> None:
    body = {"input": asking(QUESTION), **changes}
    response = post(f"{server.url}/v1/responses", json=body)
    assert response.status_code == (404 if param is None else 400), response.text
    error = response.json()["error"]
    assert told in error["message"]
    assert (error["param"] or "").startswith(param or "")
