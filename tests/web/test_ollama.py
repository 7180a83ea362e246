"""Ollama's endpoints with the real `ollama` client, and with the requests that other programs send."""

from __future__ import annotations

from tests.support.extras import require

require("test-clients")

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from blip2_chat.model import Model
from tests.support.waiting import wait_until
from tests.support.web_server import (
    MakeModel,
    Running,
    asking,
    data_url,
    gated,
    get,
    picture,
    post,
    running,
)

QUESTION = "what is this?"
FILE = picture(1)
BARE = base64.b64encode(FILE).decode()


@pytest.fixture(scope="module")
def client(server: Running) -> ollama.Client:
    return ollama.Client(host=server.url)


@pytest.fixture(scope="module")
def reference(make_model: MakeModel) -> Model:
    """The model behind the server, once more, to ask without it."""
    return make_model()


def asked(client: ollama.Client, server: Running, **more: Any) -> Any:
    options = {"num_predict": 10, **more.pop("options", {})}
    return client.generate(server.model, QUESTION, images=[FILE], options=options, **more)


def test_generate(client: ollama.Client, server: Running, reference: Model) -> None:
    expected = reference.ask(FILE, QUESTION, max_new_tokens=10)
    made = asked(client, server)
    assert made.response == expected.text
    assert made.done and made.done_reason == expected.finish_reason
    assert made.model == server.model
    assert made.prompt_eval_count == expected.prompt_tokens
    assert made.eval_count == len(expected.tokens)
    assert made.total_duration >= made.prompt_eval_duration > 0 and made.eval_duration >= 0


def test_a_stream_is_the_answer_in_pieces(client: ollama.Client, server: Running) -> None:
    whole = asked(client, server, options={"num_predict": 30})
    pieces = list(asked(client, server, options={"num_predict": 30}, stream=True))
    assert "".join(piece.response for piece in pieces) == whole.response
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len(pieces) > 4
    assert pieces[-1].eval_count == whole.eval_count and pieces[-1].done_reason == whole.done_reason


def test_streaming_is_the_default_and_ndjson(server: Running) -> None:
    """As curl sends it in Ollama's documentation: without a content type of JSON."""
    body = json.dumps({"model": server.model, "prompt": QUESTION, "images": [BARE]})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = post(f"{server.url}/api/generate", content=body, headers=headers)
    assert response.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert lines[-1]["done"] is True and all(not line["done"] for line in lines[:-1])


def test_chat(client: ollama.Client, server: Running, reference: Model) -> None:
    """A conversation, and an async client."""
    chat = reference.chat(FILE, max_new_tokens=8)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": QUESTION, "images": [BARE]},
    ]
    first = client.chat(server.model, messages, options={"num_predict": 8})
    assert first.message.role == "assistant" and first.message.content == chat.ask(QUESTION).text
    messages += [first.message.model_dump(), {"role": "user", "content": "and why?"}]
    expected = chat.ask("and why?").text

    async def streamed() -> str:
        client = ollama.AsyncClient(host=server.url)
        stream = await client.chat(server.model, messages, options={"num_predict": 8}, stream=True)
        return "".join([part.message.content or "" async for part in stream])

    assert asyncio.run(streamed()) == expected


def test_a_picture_alone_is_captioned(client: ollama.Client, server: Running, reference: Model) -> None:
    made = client.generate(server.model, images=[FILE], options={"num_predict": 8})
    assert made.response == reference.caption(FILE, max_new_tokens=8).text


def test_options_are_those_of_the_library(client: ollama.Client, server: Running, reference: Model) -> None:
    drawn = {"temperature": 1.2, "top_k": 9, "top_p": 0.8, "seed": 7}
    made = asked(client, server, options={**drawn, "repeat_penalty": 1.3})
    settings: Any = {**drawn, "repetition_penalty": 1.3}
    assert made.response == reference.ask(FILE, QUESTION, max_new_tokens=10, **settings).text
    whole = asked(client, server, options={"num_predict": 30}).response
    stop = whole[4:6]
    cut = asked(client, server, options={"num_predict": 30, "stop": [stop]}).response
    assert cut == whole[: whole.index(stop)].strip()
    longest = asked(client, server, options={"num_predict": -1})
    assert longest.eval_count > 50 or longest.done_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_form(client: ollama.Client, server: Running, reference: Model, stream: bool) -> None:
    schema = {"type": "object", "properties": {"kind": {"enum": ["a", "bee"]}}, "required": ["kind"]}
    best = reference.choose(FILE, QUESTION, ["a", "bee"])[0][0]
    made = asked(client, server, format=schema, stream=stream)
    text = "".join(part.response for part in made) if stream else made.response
    assert json.loads(text) == {"kind": best}


def test_models(client: ollama.Client, several: Running, server: Running) -> None:
    (entry,) = client.list().models
    assert entry.model == f"{server.model}:latest"
    assert (
        asked(client, server).response
        == client.generate(entry.model, QUESTION, images=[FILE], options={"num_predict": 10}).response
    )
    others = ollama.Client(host=several.url)
    ids = [served.id for served in several.service.models]
    assert [one.model for one in others.list().models] == [
        one if ":" in one else f"{one}:latest" for one in ids
    ]
    assert [one.model for one in others.ps().models] == [one.model for one in others.list().models]
    for one in others.list().models:
        shown = others.show(one.model or "")
        assert shown.capabilities == ["completion", "vision"]
        assert shown.details is not None and shown.details.family == "blip-2"
    version = get(f"{server.url}/api/version").json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4), "what VS Code asks for"


def test_loading_a_model_is_nothing_to_do(client: ollama.Client, server: Running) -> None:
    made = client.generate(server.model)
    assert made.done and made.done_reason == "load" and made.response == ""
    assert client.chat(server.model, []).done_reason == "load"


def test_errors_are_texts(client: ollama.Client, server: Running) -> None:
    """As the client shows them: the text, and no dictionary."""
    for call, status, told in [
        (lambda: client.generate("llava", QUESTION, images=[FILE]), 404, "there is no model 'llava'"),
        (lambda: client.generate(server.model, "hello"), 400, "there is no picture: put it, as base64"),
        (lambda: client.generate(server.model, "?", images=[FILE, FILE]), 400, "one picture at a time"),
        (lambda: client.generate(server.model, "?", images=[FILE], format="json"), 400, "format must be"),
        (lambda: client.generate(server.model, "?", images=[FILE], raw=True), 400, "raw is not supported"),
        (lambda: asked(client, server, options={"mirostat": 2}), 400, "mirostat is not supported"),
        (lambda: asked(client, server, options={"temperature": 9}), 400, "options.temperature"),
        (lambda: client.generate(server.model, "?", images=[b"no picture"]), 400, "picture"),
        (lambda: client.embed(server.model, "text"), 404, "nothing at this path"),
        (lambda: client.pull("llava"), 404, "this server has /api/chat, /api/generate"),
    ]:
        with pytest.raises(ollama.ResponseError) as error:
            call()
        assert error.value.status_code == status
        assert told in error.value.error, error.value.error


def test_limits_and_keys_hold_as_elsewhere(make_model: MakeModel) -> None:
    with running(gated(make_model()), slots=1, queue=0, api_key="secret") as server:
        url, body = f"{server.url}/api/generate", {"prompt": QUESTION, "images": [BARE]}
        refused = post(url, json=body)
        assert refused.status_code == 401 and isinstance(refused.json()["error"], str)
        headers = {"Authorization": "Bearer secret"}
        client = ollama.Client(host=server.url, headers=headers)
        stream: Iterator[Any] = client.generate(server.model, QUESTION, images=[FILE], stream=True)
        server.service.models[0].model.gate.let(2)  # type: ignore[attr-defined]
        next(iter(stream))
        full = post(url, json=body, headers=headers)
        assert full.status_code == 429 and "all places are taken" in full.json()["error"]
        assert full.headers["retry-after"]
        stream.close()  # type: ignore[attr-defined]
        server.service.models[0].model.gate.set()  # type: ignore[attr-defined]
        assert wait_until(lambda: server.service.places.requests == 0), "who leaves frees the place"


# What other programs send, from their public code.


def test_photoprism(server: Running) -> None:
    """Its Ollama engine: everything in one request, without a stream, and fields that are empty."""
    body = {
        "id": "b7d5e9e0-7b4c-4f5e-9a53-2b1d7b1f2f10",
        "model": f"{server.model}:latest",
        "prompt": "Create a caption with exactly one sentence in the active voice.",
        "suffix": "",
        "options": {"temperature": 0.1, "top_p": 0.9, "stop": ["\n\n"]},
        "stream": False,
        "images": [BARE],
    }
    made = post(f"{server.url}/api/generate", json=body)
    assert made.status_code == 200 and made.json()["response"].strip()
    # Its OpenAI engine.
    parts = [
        {"type": "input_text", "text": "Create a caption."},
        {"type": "input_image", "image_url": data_url(FILE), "detail": "low"},
    ]
    system = {"role": "system", "type": "message", "content": [{"type": "input_text", "text": "Be brief."}]}
    asked = {
        "model": server.model,
        "input": [system, {"role": "user", "type": "message", "content": parts}],
        "max_output_tokens": 512,
        "temperature": 0.1,
    }
    response = post(f"{server.url}/v1/responses", json=asked).json()
    assert response["output"][0]["content"][0]["text"].strip()


def test_open_webui(server: Running) -> None:
    """It lists models, reads the version, and sends a chat whose pictures it has turned into bare base64."""
    listed = get(f"{server.url}/api/tags").json()["models"]
    assert {"name", "model", "modified_at", "size", "digest", "details"} <= set(listed[0])
    assert get(f"{server.url}/api/version").json()["version"] and get(f"{server.url}/api/ps").json()["models"]
    body = {
        "model": listed[0]["model"],
        "messages": [{"role": "user", "content": QUESTION, "images": [BARE]}],
        "options": {},
        "stream": True,
        "metadata": None,
    }
    lines = post(f"{server.url}/api/chat", json=body).text.splitlines()
    assert json.loads(lines[-1])["done"] and json.loads(lines[0])["message"]["content"]


def test_a_bare_string_as_image_url(server: Running) -> None:
    """Ollama's own documentation of its OpenAI-compatible endpoint sends this."""
    content = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": data_url(FILE)}]
    url = f"{server.url}/v1/chat/completions"
    told = post(url, json={"messages": [{"role": "user", "content": content}]}).json()
    same = post(url, json={"messages": asking(QUESTION, data_url(FILE))}).json()
    assert told["choices"] == same["choices"]
