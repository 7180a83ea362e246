"""Answers with a form: what JSON schemas allow, by the reference implementation; and that the likeliest is given."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from blip2_chat.model import Model
from blip2_chat.web.answering import value_of
from blip2_chat.web.errors import ApiError
from blip2_chat.web.forms.schema import MOST_VALUES, read_form
from tests.support.web_server import MakeModel, Running, asking, data_url, get, picture, post

URL = data_url(picture(1))
QUESTION = "what is this?"
WORDS = [
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
COLOURS = ["red", "dark blue", "green"]

CHOICES: list[tuple[dict[str, Any], int]] = [
    ({"enum": ["a dog", "a cat"]}, 2),
    ({"type": "string", "enum": ["a", "b", 3, None]}, 2),
    ({"const": "only this"}, 1),
    ({"type": "boolean"}, 2),
    ({"type": ["boolean", "null"]}, 3),
    ({"enum": [1, True, 0, False, 1.0]}, 4),
    ({"type": "integer", "minimum": -3, "maximum": 3}, 7),
    ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10, "multipleOf": 3}, 3),
    ({"type": "integer", "minimum": 0.5, "maximum": 2.5}, 2),
    ({"type": "number", "enum": [0.5, 1, 2.25], "maximum": 2}, 2),
    ({"enum": ["a", 5], "minimum": 3, "maximum": 4}, 1),
    ({"anyOf": [{"const": 1}, {"const": "one"}, {"type": "null"}]}, 3),
    ({"oneOf": [{"enum": ["x", "y"]}, {"anyOf": [{"type": "boolean"}]}]}, 4),
    ({"$defs": {"Kind": {"enum": ["a", "b"]}}, "$ref": "#/$defs/Kind", "description": "beside it"}, 2),
    ({"$defs": {"Kind": {"enum": ["a", "b"]}}, "allOf": [{"$ref": "#/$defs/Kind"}], "default": "a"}, 2),
    ({"enum": ["a", "b", "c"], "const": "b"}, 1),
]


@pytest.mark.parametrize(("schema", "count"), CHOICES)
def test_the_values_are_those_that_the_schema_allows(schema: dict[str, Any], count: int) -> None:
    (field,) = read_form(schema, "response_format").fields
    assert field.values is not None and len(field.values) == count
    for value in field.values:
        jsonschema.validate(value, schema)
    others = [True, False, None, "a", "b", "c", "a dog", 0.5, 2.25, "none", *range(-20, 20)]
    valid = [one for one in others if jsonschema.Draft202012Validator(schema).is_valid(one)]
    for one in valid:
        assert any(
            one == value and isinstance(one, bool) == isinstance(value, bool) for value in field.values
        )


def test_objects_are_filled_as_their_schema_wants() -> None:
    schema = {
        "type": "object",
        "properties": {
            "version": {"const": 2},
            "inner": {
                "type": "object",
                "properties": {"kind": {"enum": ["x"]}, "is_big": {"type": "boolean"}},
            },
            "note": {"type": "string", "description": "what is\n in the middle?"},
            "empty": {"type": "object", "properties": {}},
        },
        "required": ["version", "inner", "note"],
        "additionalProperties": False,
    }
    form = read_form(schema, "format")
    assert [field.path for field in form.asked] == [("inner", "is_big"), ("note",)]
    made = form.fill({("inner", "is_big"): True, ("note",): "a dog"})
    jsonschema.validate(made, schema)
    assert list(made) == list(schema["properties"])  # type: ignore[call-overload]
    assert made["inner"] == {"kind": "x", "is_big": True}
    assert [form.question(field, "and?") for field in form.asked] == [
        "and? is big?",
        "what is in the middle?",
    ]


def test_the_only_thing_to_ask_is_the_requests_question() -> None:
    form = read_form({"properties": {"is_dog": {"type": "boolean", "description": "so it is"}}}, "format")
    (field,) = form.asked
    assert form.question(field, "is there a dog?") == "is there a dog?"
    assert form.question(field, "") == "so it is"


def test_values_are_ranked_by_what_the_model_would_say() -> None:
    (field,) = read_form({"enum": [True, False, None, "dark_blue", 3, 0.5, ""]}, "format").fields
    said = [("yes",), ("no",), ("none",), ("dark blue",), ("3", "three"), ("0.5",), ("none",)]
    assert field.texts == said


LISTS = [
    ({"type": "array", "items": {"type": "string"}}, 3),
    ({"type": "array", "items": {"$ref": "#/$defs/Word"}, "$defs": {"Word": {"type": "string"}}}, 3),
    ({"type": "array", "items": {"type": "string", "description": "a word"}, "maxItems": 2}, 2),
    ({"type": "array", "items": {"type": "string"}, "minItems": 0, "uniqueItems": True}, 3),
]


@pytest.mark.parametrize(("schema", "count"), LISTS)
def test_a_list_is_of_the_things_that_a_text_names(schema: dict[str, Any], count: int) -> None:
    (field,) = read_form(schema, "format").fields
    for text, things in (("a dog on a dog bed next to two red apples and a dog", 3), ("", 0)):
        value = value_of(field, text)
        jsonschema.validate(value, schema)
        assert value == ["dog", "dog bed", "apples"][: min(count, things)]


REFUSED: list[Any] = [
    None,
    True,
    5,
    [],
    {},
    {"type": "array", "items": {"enum": ["a"]}},
    {"type": "array"},
    {"type": "array", "items": False},
    {"type": "array", "items": [{"type": "string"}]},
    {"type": "array", "items": {"type": "object", "properties": {}}},
    {"type": "array", "items": {"type": "string", "pattern": "a"}},
    {"type": "array", "items": {"type": "string"}, "minItems": 1},
    {"type": "array", "items": {"type": "string"}, "maxItems": "many"},
    {"type": "array", "items": {"type": "string"}, "contains": {}},
    {"type": ["array", "null"], "items": {"type": "string"}},
    {"type": "number"},
    {"type": "integer"},
    {"type": "integer", "minimum": 0},
    {"type": "integer", "minimum": 0, "maximum": MOST_VALUES},
    {"type": "integer", "minimum": 0, "maximum": 1e15},
    {"type": "integer", "minimum": 0, "maximum": float("inf")},
    {"type": "integer", "minimum": False, "maximum": 3},
    {"type": "integer", "minimum": 3, "maximum": 0},
    {"type": "integer", "minimum": 0, "maximum": 3, "multipleOf": 0},
    {"type": "string", "pattern": "a+"},
    {"type": "string", "maxLength": 5},
    {"type": ["string", "null"]},
    {"type": "vector"},
    {"type": {}},
    {"enum": []},
    {"enum": "ab"},
    {"enum": [["a"]]},
    {"enum": ["a" * 300]},
    {"enum": [10**400]},
    {"enum": ["a"], "type": "integer"},
    {"enum": ["a"], "not": {"const": "a"}},
    {"anyOf": "ab"},
    {"anyOf": [{"type": "object", "properties": {}}, {"type": "null"}]},
    {"anyOf": [{"enum": ["a"]}], "enum": ["b"]},
    {"allOf": [{"enum": ["a"]}, {"enum": ["b"]}]},
    {"$ref": "https://example.com/schema.json"},
    {"$ref": "#/$defs/none"},
    {"$ref": 5},
    {"$ref": "#"},
    {"type": "object", "properties": {"again": {"$ref": "#"}}},
    {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["b"]},
    {"type": "object", "properties": [], "required": []},
    {"type": "object", "properties": {"a": {"enum": ["x"]}}, "patternProperties": {}},
    {"type": "object", "properties": {str(n): {"const": n} for n in range(100)}},
    {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 9}}, "$ref": "#/$defs/a"},
]


@pytest.mark.parametrize("schema", REFUSED)
def test_other_schemas_get_one_line_that_says_what_is_supported(schema: Any) -> None:
    with pytest.raises(ApiError, match="supported are enum, const, boolean") as told:
        read_form(schema, "response_format")
    assert told.value.status == 400 and len(told.value.message) < 400


# Over HTTP


@pytest.fixture(scope="module")
def reference(make_model: MakeModel) -> Model:
    """The model behind the server, once more."""
    return make_model()


def formatted(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "Answer", "schema": schema}}}


def answered(server: Running, question: str = QUESTION, **asked: Any) -> dict[str, Any]:
    response = post(f"{server.url}/v1/chat/completions", json={"messages": asking(question, URL), **asked})
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


def test_the_likeliest_value_is_given_with_all_probabilities(server: Running, reference: Model) -> None:
    made = answered(server, **formatted({"enum": COLOURS}))
    ranked = reference.choose(picture(1), QUESTION, COLOURS)
    assert json.loads(made["choices"][0]["message"]["content"]) == ranked[0][0]
    (told,) = made["blip2_chat"]["choices"]
    assert told["field"] == "" and told["question"] == QUESTION
    assert [one["value"] for one in told["ranked"]] == [answer for answer, _ in ranked]
    assert [one["probability"] for one in told["ranked"]] == pytest.approx([p for _, p in ranked], abs=1e-4)
    assert made["choices"][0]["finish_reason"] == "stop"
    assert made["usage"]["completion_tokens"] == len(
        reference.tokenizer.encode_answer(ranked[0][0], QUESTION)
    )


def test_more_values_than_slots_are_ranked_in_groups(server: Running, reference: Model) -> None:
    made = answered(server, **formatted({"type": "integer", "minimum": 12, "maximum": 40}))
    texts = [*map(str, range(12, 41)), *WORDS]
    assert len(texts) > server.service.settings.slots
    prompt = reference.template.render([], QUESTION)
    likelihoods = dict(zip(texts, np.exp(reference.score(picture(1), prompt, texts)), strict=True))
    # A number in digits and as a word is one value.
    totals = {n: likelihoods[str(n)] + (likelihoods[WORDS[n - 12]] if n < 21 else 0) for n in range(12, 41)}
    told = made["blip2_chat"]["choices"][0]["ranked"]
    assert [one["value"] for one in told] == sorted(totals, key=lambda n: -totals[n])
    shares = [totals[one["value"]] / sum(totals.values()) for one in told]
    assert [one["probability"] for one in told] == pytest.approx(shares, abs=1e-4)


def test_each_property_is_asked_for(server: Running, reference: Model) -> None:
    schema = {
        "type": "object",
        "properties": {
            "colour": {"enum": COLOURS, "description": "which colour is it?"},
            "is_animal": {"type": "boolean"},
            "text": {"type": "string", "description": "what does it show?"},
        },
    }
    made = answered(server, "look:", max_tokens=5, **formatted(schema))
    content = json.loads(made["choices"][0]["message"]["content"])
    jsonschema.validate(content, schema)
    assert content == {
        "colour": reference.choose(picture(1), "which colour is it?", COLOURS)[0][0],
        "is_animal": reference.choose(picture(1), "look: is animal?", ["yes", "no"])[0][0] == "yes",
        "text": reference.ask(picture(1), "what does it show?", max_new_tokens=5).text,
    }


def test_a_stream_has_the_same_answer(server: Running) -> None:
    asked = formatted({"enum": COLOURS})
    whole = answered(server, n=2, **asked)
    body = {"messages": asking(QUESTION, URL), "stream": True, "n": 2, **asked}
    lines = post(f"{server.url}/v1/chat/completions", json=body).text.split("\n\n")
    assert lines[-2] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert chunks[0]["blip2_chat"]["choices"] == whole["blip2_chat"]["choices"]


TOOL = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {"type": "object", "properties": {"colour": {"enum": COLOURS}}, "required": ["colour"]},
    },
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "paint"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called_gets_its_arguments(
    server: Running, reference: Model, choice: Any, stream: bool
) -> None:
    asked = {"messages": asking(QUESTION, URL), "tools": [TOOL], "tool_choice": choice, "stream": stream}
    response = post(f"{server.url}/v1/chat/completions", json=asked)
    best = reference.choose(picture(1), QUESTION, COLOURS)[0][0]
    if stream:
        chunks = [json.loads(line[6:]) for line in response.text.split("\n\n")[:-2]]
        told = [choice for chunk in chunks for choice in chunk["choices"]]
        (call,) = [call for one in told for call in one["delta"].get("tool_calls", [])]
        assert call["index"] == 0 and told[-1]["finish_reason"] == "tool_calls"
    else:
        (told_whole,) = response.json()["choices"]
        (call,) = told_whole["message"]["tool_calls"]
        assert told_whole["message"]["content"] is None and told_whole["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "paint" and call["type"] == "function" and call["id"]
    assert json.loads(call["function"]["arguments"]) == {"colour": best}


def test_tools_that_need_not_be_called(server: Running) -> None:
    text = answered(server)["choices"][0]["message"]["content"]
    assert answered(server, tools=[TOOL], tool_choice="none")["choices"][0]["message"]["content"] == text
    for choice in (None, "auto", {"type": "function", "function": {"name": "other"}}):
        asked = {"messages": asking(QUESTION, URL), "tools": [TOOL], "tool_choice": choice}
        response = post(f"{server.url}/v1/chat/completions", json=asked)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "tool_choice"
        assert "cannot decide which tool" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (formatted({"type": "array"}), "response_format"),
        ({"logprobs": True, **formatted({"enum": COLOURS})}, "logprobs"),
        ({"messages": asking("", URL), **formatted({"enum": COLOURS})}, "messages"),
        ({"messages": asking("why? " * 2000, URL), **formatted({"enum": COLOURS})}, "messages"),
    ],
)
def test_a_form_that_cannot_be_had(server: Running, asked: dict[str, Any], param: str) -> None:
    response = post(f"{server.url}/v1/chat/completions", json={"messages": asking("?", URL), **asked})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_forms_are_counted_in_the_metrics(server: Running) -> None:
    def counted() -> dict[str, float]:
        lines = get(f"{server.url}/metrics").text.splitlines()
        return {
            line.split()[0]: float(line.split()[1])
            for line in lines
            if line.startswith("blip2_chat_tokens_total")
        }

    before = counted()
    usage = answered(server, **formatted({"enum": COLOURS}))["usage"]
    grown = {name.split('"')[1]: value - before.get(name, 0) for name, value in counted().items()}
    assert grown["completion"] == usage["completion_tokens"] > 0
    assert grown["prompt"] == usage["prompt_tokens"]
