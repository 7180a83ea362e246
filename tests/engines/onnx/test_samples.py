"""The sample pictures are described, and questions about them answered, as samples.json says: at every precision."""

from __future__ import annotations

import json

import pytest

import blip2_chat
from blip2_chat.checkpoint.embedded import SAMPLES


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_everything_suggested_about_the_samples_is_answered_right(precision: str) -> None:
    wrong = []
    model = blip2_chat.load(precision=precision, engine="onnx")
    for sample in json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8")):
        chat = model.chat(SAMPLES / sample["picture"])
        asked = [(None, sample["caption"])]
        asked += [(one["question"], one["answer"]) for one in sample["questions"]]
        for question, right in asked:
            chat.reset()
            said = chat.caption() if question is None else chat.ask(question)
            wrong += [] if said == right else [(sample["picture"], question, str(said))]
        chat.reset()
        for question, right in sample["conversation"]:
            said = chat.ask(question)
            wrong += [] if said == right else [(sample["picture"], question, str(said))]
    model.close()
    assert wrong == []
