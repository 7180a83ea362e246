"""InstructBLIP behind the API and the page: what transformers answers to the same instruction, and to a follow-up."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")
require("test-torch")

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, expect
from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

from blip2_chat.checkpoint.config import ModelConfig
from blip2_chat.checkpoint.tokenizer import Tokenizer
from blip2_chat.images import Preprocess, open_picture, to_pixels
from tests.support.web_browser import Visit, answers, ask, idle
from tests.support.web_server import MakeModel, Running, asking, data_url, get, picture, post, running

FIRST, SECOND = "what is in the picture?", "and why?"
# Tokens of an answer: the least that the page asks for.
MOST = 5
# LAVIS's own, from its examples.
CAPTION = "Write a short description for the image."


@dataclass
class Reference:
    """transformers, which reads the whole prompt anew."""

    model: Any
    processor: Any
    tokenizer: Tokenizer
    image: Any
    pixels: torch.Tensor
    eos: list[int]

    def answer(self, prompt: str, most: int) -> str:
        given = self.processor(images=self.image, text=prompt, return_tensors="pt")
        given["pixel_values"] = self.pixels  # its own resizing rounds otherwise
        with torch.no_grad():
            ids = self.model.generate(**given, max_new_tokens=most, do_sample=False, eos_token_id=self.eos)[0]
        (asked,) = given["input_ids"]
        if ids[: len(asked)].equal(asked):  # a decoder-only model's prompt comes first
            ids = ids[len(asked) :]
        # Its tokenizer makes other signs of bytes that are no text.
        return self.tokenizer.decode(ids.tolist()).strip()


@pytest.fixture(scope="module", params=["instruct-t5", "instruct-llama"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reference(family: str, checkpoint: Callable[..., Path]) -> Reference:
    folder = checkpoint(family, 11, std=0.2)  # `make_model`'s
    opened = open_picture(picture(1))
    return Reference(
        InstructBlipForConditionalGeneration.from_pretrained(folder).eval(),
        InstructBlipProcessor.from_pretrained(folder),
        Tokenizer.from_folder(folder, ModelConfig.from_folder(folder)),
        opened.image,
        torch.from_numpy(to_pixels(opened, Preprocess.from_folder(folder))),
        list(ModelConfig.from_folder(folder).text.eos_token_ids),
    )


@pytest.fixture(scope="module")
def served(family: str, make_model: MakeModel) -> Iterator[Running]:
    with running(make_model(family), max_tokens=MOST) as server:
        yield server


def said(server: Running, messages: list[dict[str, Any]], most: int) -> str:
    body = {"model": server.model, "messages": messages, "max_tokens": most}
    response = post(f"{server.url}/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_the_api_answers_as_transformers_does(served: Running, reference: Reference) -> None:
    first = said(served, asking(FIRST, data_url(picture(1))), MOST)
    assert first == reference.answer(FIRST, MOST) != ""
    messages = [
        *asking(FIRST, data_url(picture(1))),
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": SECOND},
    ]
    follow_up = said(served, messages, MOST)
    assert follow_up == reference.answer(f"Question: {FIRST} Answer: a dog. {SECOND}", MOST) != ""
    # Other instructions about a picture that was read before, and the first one again.
    assert said(served, asking(SECOND, data_url(picture(1))), MOST) == reference.answer(SECOND, MOST)
    assert said(served, asking(FIRST, data_url(picture(1))), MOST) == first


def test_the_page_captions_answers_and_follows_up(
    browser: Browser, served: Running, reference: Reference, family: str
) -> None:
    (model,) = get(f"{served.url}/v1/models").json()["data"]
    assert model["blip2_chat"]["family"] == family
    visit = Visit(browser, served.url)
    page = visit.page
    expect(page.locator("body")).to_contain_text(model["blip2_chat"]["description"])
    page.set_input_files("#file", [{"name": "a.png", "mimeType": "image/png", "buffer": picture(1)}])  # type: ignore[arg-type]
    idle(page)
    expect(answers(page)).to_have_count(1)
    expect(answers(page).nth(0)).to_contain_text(reference.answer(CAPTION, MOST))
    ask(page, FIRST)
    expect(answers(page)).to_have_count(2)
    idle(page)
    first = reference.answer(FIRST, MOST)
    expect(answers(page).nth(1)).to_contain_text(first)
    ask(page, SECOND)
    expect(answers(page)).to_have_count(3)
    idle(page)
    turn = f"Question: {FIRST} Answer: {first.rstrip('. ')}."
    expect(answers(page).nth(2)).to_contain_text(reference.answer(f"{turn} {SECOND}", MOST))
    assert visit.problems == []
    visit.context.close()
