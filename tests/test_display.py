"""What a picture, an answer and a chat show as the last line of a cell."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

import blip2_chat
from blip2_chat.chat import Chat, Turn
from blip2_chat.generation.answer import Answer
from blip2_chat.images import open_picture

EVIL = "<script>alert('x')</script> & \"more\""


class Page(HTMLParser):
    """Elements, their attributes, and the text in them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, tag: str) -> dict[str, str | None]:
        return next(given for name, given in self.elements if name == tag)


@pytest.fixture
def chat(checkpoint: Callable[..., Path]) -> Chat:
    model = blip2_chat.load(checkpoint("opt", 4), engine="onnx", threads=1)
    made = model.chat(Image.new("RGB", (1200, 900), (200, 30, 30)))
    caption, said = Answer("a red square"), Answer("two", tokens=(5, 6), seconds=1.25)
    made.turns = [Turn(None, caption), Turn("how many?", said), Turn(EVIL, replace(said, text=EVIL))]
    return made


def test_a_chat_shows_its_picture_caption_and_turns(chat: Chat) -> None:
    page = Page(chat._repr_html_())
    image = page.attributes("img")
    assert image["alt"] == "a red square"
    source = image["src"] or ""
    assert source.startswith("data:image/")
    for text in ("a red square", "how many?", "two"):
        assert text in page.text
    assert len(chat._repr_html_()) < 20_000, "the picture is made smaller for it"


def test_questions_and_answers_are_never_html(chat: Chat) -> None:
    chat.turns.append(Turn(None, Answer(EVIL), start=EVIL))
    object.__setattr__(chat.picture, "name", EVIL)
    page = Page(chat._repr_html_())
    assert not [tag for tag, _ in page.elements if tag == "script"]
    assert page.text.count("alert('x')") >= 4
    assert page.attributes("img")["alt"] == f"{EVIL} {EVIL}"
    assert not [tag for tag, _ in Page(Answer(EVIL)._repr_html_()).elements if tag == "script"]


def test_a_chat_without_turns_shows_the_picture(chat: Chat) -> None:
    chat.reset()
    page = Page(chat._repr_html_())
    assert page.attributes("img")["alt"] == "picture"
    assert "p" not in [tag for tag, _ in page.elements]


def test_an_answer_shows_its_text_and_the_others() -> None:
    others = (Answer("a dog"), Answer(""))
    answer = Answer("a cat", tokens=(1, 2, 3), seconds=0.5, finish_reason="length", others=others)
    page = Page(answer._repr_html_())
    assert "a cat" in page.text and "3 tokens in 0.5 s, cut at max_new_tokens" in page.text
    assert "3 tokens in 12 ms" in Page(replace(answer, seconds=0.0123)._repr_html_()).text
    assert [tag for tag, _ in page.elements].count("li") == 2
    assert "a dog(nothing)" in page.text


def test_a_picture_shows_itself_at_a_notebooks_size() -> None:
    shown = Image.open(io.BytesIO(open_picture(Image.new("RGB", (3000, 1500), "navy"))._repr_png_()))
    assert (shown.format, shown.size, shown.getpixel((9, 9))) == ("PNG", (768, 384), (0, 0, 128))
    small = Image.open(io.BytesIO(open_picture(Image.new("RGB", (30, 20)))._repr_png_()))
    assert small.size == (30, 20)
