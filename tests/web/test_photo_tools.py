"""The requests that photo and camera tools send, with the fields that their public code gives them.

Each names the file that it was read in (of 2026). Prompts are in other words, but as long and as instructive.
"""

from __future__ import annotations

from tests.support.extras import require

require("test-clients")

import base64
import json
from typing import Any

import ollama
import openai
import pytest

from blip2_chat.metadata.keywords import keywords
from blip2_chat.model import Model
from blip2_chat.web.model_ids import CAPTION
from tests.support.openai_chat import connected
from tests.support.web_server import MakeModel, Running, data_url, get, message, picture, post, running

FILE = picture(1)
BARE = base64.b64encode(FILE).decode()
URL = data_url(FILE)
QUESTION = "what is this?"
LONG = "\n".join(
    [
        "You are the archivist of a large collection of photographs. Describe the one that is attached.",
        *[f"- Rule {number}: be precise, and mention places, people and colours." for number in range(40)],
        'Answer with a JSON object that has the key "tags" and a list of words.',
    ]
)


@pytest.fixture(scope="module")
def reference(make_model: MakeModel) -> Model:
    return make_model()


def chat(server: Running, body: dict[str, Any]) -> str:
    made = post(f"{server.url}/v1/chat/completions", json=body)
    assert made.status_code == 200, made.text
    return str(made.json()["choices"][0]["message"]["content"])


def parts(text: str, url: str = URL, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url, **more}}]


# Immich's companions.


def test_immich_analyze_by_ollama(server: Running, reference: Model) -> None:
    """timasoft/immich-analyze, src/ollama.rs."""
    asked = {"role": "user", "content": QUESTION, "images": [BARE]}
    body = {"model": server.model, "messages": [asked], "stream": False}
    made = post(f"{server.url}/api/chat", json=body).json()
    assert made["message"]["content"] == reference.ask(FILE, QUESTION).text


def test_immich_analyze_by_llama_cpp(server: Running, reference: Model) -> None:
    """timasoft/immich-analyze, src/llamacpp.rs."""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": parts(QUESTION)}],
        "stream": False,
    }
    assert chat(server, body) == reference.ask(FILE, QUESTION).text


def test_immich_ai_descriptions(server: Running, reference: Model) -> None:
    """Fgruntjes/immich-ai-descriptions, engine.py: llama.cpp's names for settings, beside OpenAI's."""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": parts(QUESTION)}],
        "max_tokens": 20,
        "temperature": 0,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
        "stream": False,
        "reasoning_format": "none",
    }
    assert get(f"{server.url}/v1/models").status_code == 200, "how it sees whether the server is there"
    assert chat(server, body) == reference.ask(FILE, QUESTION, max_new_tokens=20).text


def test_immich_go_analyze(server: Running, reference: Model) -> None:
    """seconion/immich-go-analyze, main.go: its prompt is fixed."""
    asked = {
        "role": "user",
        "content": "Say in a few words what this is. Then list keywords.",
        "images": [BARE],
    }
    options = {"num_predict": 20, "temperature": 0}
    body = {"model": server.model + CAPTION, "messages": [asked], "stream": False, "options": options}
    made = post(f"{server.url}/api/chat", json=body).json()
    assert made["message"]["content"] == reference.caption(FILE, max_new_tokens=20).text


def test_immich_ai_classifier(server: Running, reference: Model) -> None:
    """Encryptdotnetwork/immich-ai-classifier, app/vision.py: a long system message, and maybe no text besides."""
    messages = [
        {"role": "system", "content": LONG},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]},
    ]
    body = {
        "model": server.model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": 1024,
        "stream": False,
    }
    longest = server.service.models[0].longest_answer
    assert chat(server, body) == reference.caption(FILE, max_new_tokens=longest).text


@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_immich_gpt(server: Running, reference: Model, api: str) -> None:
    """titatom/immich-gpt, backend/app/services/ai_provider.py: JSON without a schema."""
    messages = [{"role": "system", "content": LONG}, {"role": "user", "content": parts(LONG, detail="low")}]
    if api == "openai":
        body: dict[str, Any] = {"temperature": 0, "response_format": {"type": "json_object"}}
        refused = post(f"{server.url}/v1/chat/completions", json={"messages": messages, **body})
        assert refused.status_code == 400 and "the type must be json_schema" in message(refused)
    else:  # OpenAI's path with some of Ollama's fields, of which `format` does nothing there
        body = {"stream": False, "options": {"temperature": 0.2}, "format": "json"}
    body = {"model": server.model + CAPTION, "messages": messages, "max_tokens": 20, **body}
    caption = reference.caption(FILE, max_new_tokens=20).text
    if api == "openai":
        assert json.loads(chat(server, body)) == {"description": caption, "tags": list(keywords([caption]))}
    else:
        assert chat(server, body) == caption


# Others.


@pytest.fixture(scope="module")
def embedded() -> Any:
    """The embedded model, whose captions have things in them."""
    import blip2_chat

    model = blip2_chat.load(threads=1)
    with running(model) as one:
        yield one, model
    model.close()


@pytest.mark.parametrize("schema", ["structured", "json"])
@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_karakeep(embedded: tuple[Running, Model], api: str, schema: str) -> None:
    """karakeep-app/karakeep, packages/shared/inference.ts and prompts.ts: tags, as a schema or as plain JSON."""
    server, model = embedded
    sample = sample_file()
    tags = {"type": "object", "properties": {"tags": {"type": "array", "items": {"type": "string"}}}}
    strict = {"$schema": "http://json-schema.org/draft-07/schema#", **tags, "required": ["tags"]}
    strict["additionalProperties"] = False
    if api == "openai":
        schema_of = {"name": "schema", "strict": True, "schema": strict}
        answer_format: Any = {"type": "json_schema", "json_schema": schema_of}
        with connected(server) as client:
            made = client.chat.completions.create(
                model=server.model + CAPTION,
                max_tokens=2048,
                response_format=answer_format if schema == "structured" else {"type": "json_object"},
                messages=[{"role": "user", "content": parts(LONG, data_url(sample), detail="low")}],  # type: ignore[typeddict-item, list-item]
            )
        text = made.choices[0].message.content or ""
    else:
        chunks = ollama.Client(host=server.url).generate(
            model=server.model + CAPTION,
            format=strict if schema == "structured" else "json",
            stream=True,
            keep_alive="5m",
            options={"num_ctx": 2048, "num_predict": 2048},
            prompt=LONG,
            images=[sample],
        )
        text = "".join(chunk.response for chunk in chunks)
    found = json.loads(text)["tags"]
    assert found == list(keywords([model.caption(sample).text])) and found


def sample_file() -> bytes:
    from blip2_chat.checkpoint.embedded import sample_pictures

    return sample_pictures()[0].path.read_bytes()


def test_frigate_by_ollama(server: Running, reference: Model) -> None:
    """blakeblackshear/frigate, frigate/genai/plugins/ollama.py: marks where pictures are, and penalties."""
    client = ollama.Client(host=server.url)
    assert client.show(server.model).get("error") is None
    options = {"temperature": 0, "repeat_penalty": 1.05, "presence_penalty": 0.3, "num_predict": 20}

    def described(model: str, *files: bytes) -> str:
        content = "\n".join([QUESTION, *["[img]"] * len(files)])
        asked = {"role": "user", "content": content, "images": files}
        return str(client.chat(model=model, messages=[asked], options=options)["message"]["content"])

    expected = reference.ask(FILE, QUESTION, max_new_tokens=20, repetition_penalty=1.05).text
    assert described(server.model, FILE) == expected
    # Several frames of one thing: the last of them, for who wants a caption whatever is asked.
    with pytest.raises(ollama.ResponseError, match="one picture at a time"):
        described(server.model, picture(2), FILE)
    caption = reference.caption(FILE, max_new_tokens=20, repetition_penalty=1.05).text
    assert described(server.model + CAPTION, picture(2), FILE) == caption


def test_frigate_by_openai(server: Running, reference: Model) -> None:
    """blakeblackshear/frigate, frigate/genai/plugins/openai.py and llama_cpp.py."""
    with connected(server) as client:
        assert [one.id for one in client.models.list()] == [server.model]
        made = client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": parts(QUESTION, detail="low")}],  # type: ignore[typeddict-item, list-item]
            timeout=60,
        )
        assert made.choices[0].message.content == reference.ask(FILE, QUESTION).text
        with pytest.raises(openai.BadRequestError, match="confidence"):
            client.chat.completions.create(
                model=server.model,
                messages=[{"role": "user", "content": parts(QUESTION)}],  # type: ignore[typeddict-item, list-item]
                response_format={
                    "type": "json_schema",
                    "json_schema": {
                        "name": "review_metadata",
                        "strict": True,
                        "schema": {
                            "type": "object",
                            "properties": {"scene": {"type": "string"}, "confidence": {"type": "number"}},
                        },
                    },
                },
            )


def test_llm_vision_by_ollama(server: Running, reference: Model) -> None:
    """valentinfrlch/ha-llmvision, custom_components/llmvision/providers.py: the picture under a title of its own."""
    body = {
        "model": server.model,
        "messages": [
            {"role": "user", "content": "Image 1:", "images": [BARE]},
            {"role": "user", "content": QUESTION},
        ],
        "stream": False,
        "keep_alive": 5,
        "options": {"num_predict": 20, "temperature": 0, "num_ctx": 2048},
        "system": LONG,
    }
    assert get(f"{server.url}/api/tags").status_code == 200, "how it sees whether the server is there"
    made = post(f"{server.url}/api/chat", json=body).json()
    assert made["message"]["content"] == reference.ask(FILE, QUESTION, max_new_tokens=20).text


@pytest.mark.parametrize("title", ["Image 1:", "front_door.jpg:"])
def test_llm_vision_by_openai(server: Running, reference: Model, title: str) -> None:
    """The same file: OpenAI's shape, with a form if one is given."""
    content = [{"type": "text", "text": title}, *reversed(parts(QUESTION))]
    body = {
        "model": server.model,
        "messages": [{"role": "system", "content": LONG}, {"role": "user", "content": content}],
        "max_completion_tokens": 20,
        "temperature": 0,
        "top_p": 0.9,
    }
    assert chat(server, body) == reference.ask(FILE, QUESTION, max_new_tokens=20).text
    schema = {"type": "object", "properties": {"car": {"type": "boolean"}}, "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "response", "schema": schema, "strict": True}}
    best = reference.choose(FILE, QUESTION, ["yes", "no"])[0][0]
    assert json.loads(chat(server, {**body, "response_format": form})) == {"car": best == "yes"}


def test_a_title_alone_is_the_question(server: Running, reference: Model) -> None:
    body = {"messages": [{"role": "user", "content": parts("Image 1:")}]}
    assert chat(server, body) == reference.ask(FILE, "Image 1:").text


def test_nextcloud(server: Running, reference: Model) -> None:
    """nextcloud/integration_openai, lib/TaskProcessing/AnalyzeImagesProvider.php: each picture in a message."""
    messages = [
        {"role": "system", "content": "Answer the question about the pictures, in its language."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]},
        {"role": "user", "content": QUESTION},
    ]
    body = {"model": server.model, "messages": messages, "max_tokens": 20, "n": 1, "user": "someone"}
    assert chat(server, body) == reference.ask(FILE, QUESTION, max_new_tokens=20).text


def test_lychee_ai_organizer(server: Running, reference: Model) -> None:
    """cdzombak/lychee-ai-organizer, internal/ai/ollama_client.go, by Ollama's own client for Go."""
    body = {
        "model": server.model + CAPTION,
        "prompt": LONG,
        "suffix": "",
        "system": "",
        "template": "",
        "stream": False,
        "images": [BARE],
        "options": None,
    }
    made = post(f"{server.url}/api/generate", json=body).json()
    assert made["response"] == reference.caption(FILE).text


def test_paperless_gpt(server: Running, reference: Model) -> None:
    """icereed/paperless-gpt, ocr/llm_provider.go, by langchaingo's client: the picture first, an empty format."""
    asked = {"role": "user", "content": QUESTION, "images": [BARE]}
    options = {"num_predict": 20, "temperature": 0, "num_ctx": 2048}
    body = {"model": server.model, "messages": [asked], "format": "", "options": options, "stream": True}
    lines = post(f"{server.url}/api/chat", json=body).text.splitlines()
    answer = "".join(json.loads(line)["message"]["content"] for line in lines)
    assert answer == reference.ask(FILE, QUESTION, max_new_tokens=20).text


# The name for captions only, besides.


def test_captions_whatever_is_said(server: Running, reference: Model) -> None:
    model = server.model + CAPTION
    caption = reference.caption(FILE, max_new_tokens=20).text
    before = [{"role": "user", "content": parts("and?")}, {"role": "assistant", "content": "a dog"}]
    content = [{"type": "input_text", "text": LONG}, {"type": "input_image", "image_url": URL}]
    body = {"model": model, "input": [{"role": "user", "content": content}], "max_output_tokens": 20}
    made = post(f"{server.url}/v1/responses", json=body).json()
    assert made["output"][0]["content"][0]["text"] == caption
    asked = {"model": model, "messages": [*before, {"role": "user", "content": LONG}], "max_tokens": 20}
    assert chat(server, asked) == caption
    assert get(f"{server.url}/v1/models/{model}").json()["id"] == server.model
    assert post(f"{server.url}/api/show", json={"model": model}).json()["capabilities"] == [
        "completion",
        "vision",
    ]
    nobody = post(f"{server.url}/v1/chat/completions", json={**asked, "model": f"llava{CAPTION}"})
    assert nobody.status_code == 404 and f"'llava{CAPTION}'" in message(nobody)


def test_choices_are_still_asked_for(server: Running, reference: Model) -> None:
    """A choice has no caption: it is asked by its description, or by its name."""
    properties = {
        "title": {"type": "string", "description": "A short title"},
        "is_car": {"type": "boolean"},
    }
    schema = {"type": "object", "properties": properties}
    form = {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}
    messages = [{"role": "user", "content": parts(LONG)}]
    body = {"model": server.model + CAPTION, "messages": messages, "response_format": form, "max_tokens": 20}
    best = reference.choose(FILE, "is car?", ["yes", "no"])[0][0]
    expected = {"title": reference.caption(FILE, max_new_tokens=20).text, "is_car": best == "yes"}
    assert json.loads(chat(server, body)) == expected
