"""Which parts of a picture an answer depends on: of the embedded model, whose samples say where everything is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import blip2_chat
from blip2_chat import ConversationError, GenerationError
from blip2_chat.attribution import ENCODINGS, overlay, stretched
from blip2_chat.cli import app
from blip2_chat.model import Model

SAMPLES = Path(blip2_chat.__file__).parent / "demo" / "samples"
PICTURE = SAMPLES / "dog-and-apple.png"  # a dog in the left half, an apple in the right one


@pytest.fixture(scope="module")
def model() -> Model:
    return blip2_chat.load(threads=1)


def hottest(heat: np.ndarray) -> tuple[float, float]:
    """The place of the largest value, as fractions of width and height."""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return float(column) / heat.shape[1], float(row) / heat.shape[0]


def test_an_answer_depends_on_the_thing_that_it_names(model: Model) -> None:
    told: list[tuple[int, int]] = []
    left = model.attribution(
        PICTURE, "what is on the left?", on_progress=lambda what, done, total: told.append((done, total))
    )
    right = model.attribution(PICTURE, "what is on the right?")
    with Image.open(PICTURE) as image:
        assert left.shape == right.shape == image.size[::-1]
    for heat in (left, right):
        assert heat.dtype == np.float32 and heat.min() >= 0 and 0.9 < heat.max() <= 1
    assert hottest(left)[0] < 0.5 < hottest(right)[0]
    assert told[-1][0] == told[-1][1] <= ENCODINGS
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_another_answer_can_be_asked_about(model: Model) -> None:
    given = model.attribution(PICTURE, "what is on the left?", "a dog")
    assert np.array_equal(given, model.attribution(PICTURE, "what is on the left?"))
    assert not np.array_equal(given, model.attribution(PICTURE, "what is on the left?", "an apple"))


def test_of_a_turn_with_those_before_it_as_context(model: Model) -> None:
    chat = model.chat(PICTURE)
    chat.caption()
    chat.ask("what is on the left?")
    chat.ask("and what is right of it?")
    shown = chat.show()
    assert (shown.question, shown.answer) == ("and what is right of it?", chat.turns[-1].text)
    assert hottest(shown.heat)[0] > 0.5
    prompt = model.template.render(chat.exchanges[:1], "and what is right of it?")
    assert np.array_equal(shown.heat, model.attribute(chat.picture, prompt, chat.turns[-1].text))
    assert shown.image.size == chat.picture.image.size
    assert "and what is right of it?" in shown._repr_html_() and not shown.words
    by_word = chat.show(words=True)
    assert np.array_equal(by_word.heat, shown.heat)
    assert [one.word for one in by_word.words] == chat.turns[-1].text.split()
    assert by_word._repr_html_().count("<img") == 1 + len(by_word.words)
    assert chat.show(0).question is None
    with pytest.raises(ConversationError, match="there is no turn 7; there are 3"):
        chat.show(7)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            ("what is it?", "a dog", "gradients"),
            "method 'gradients' is none of occlusion, gradient, attention",
        ),
        (
            ("what is it?", "a dog", "gradient"),
            "the onnx engine cannot: use method='occlusion', or load the model",
        ),
        (("  ", None, "occlusion"), "the question is empty"),
        (("what is it?", " ", "occlusion"), "an empty one"),
    ],
)
def test_what_cannot_be_attributed(model: Model, arguments: tuple[str, str | None, str], match: str) -> None:
    question, answer, method = arguments
    with pytest.raises(GenerationError, match=match):
        model.attribution(PICTURE, question, answer, method=method)


def test_each_word_depends_on_its_own_thing(model: Model) -> None:
    words = model.word_attributions(PICTURE, None, "a dog left of an apple")
    by_word = {one.word: one for one in words}
    assert list(by_word) == ["a", "dog", "left", "of", "an", "apple"]
    assert hottest(by_word["dog"].heat)[0] < 0.5 < hottest(by_word["apple"].heat)[0]
    assert max(one.strength for one in words) == 1
    assert by_word["of"].strength < 0.3 < min(by_word["dog"].strength, by_word["apple"].strength)


def test_a_picture_that_is_not_square_keeps_its_frame() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1  # above, on the right
    wide = stretched(heat, 80, 20)
    assert wide.shape == (20, 80)
    assert hottest(wide)[0] > 0.75 and hottest(wide)[1] < 0.25
    drawn = np.asarray(overlay(Image.new("RGB", (80, 20), "white"), heat), np.int16)
    assert drawn.shape == (20, 80, 3)
    red, green, blue = drawn[2, 77]
    assert red > green + 50 and red > blue + 50, "hot"
    assert np.ptp(drawn[17, 3]) < 5, "cold: grey"


def test_commands(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, list(arguments))
        return result.exit_code, result.stdout, " ".join(result.stderr.split())

    out = tmp_path / "where.png"
    code, answer, told = run("ask", str(PICTURE), "what is on the left?", "--where", str(out))
    assert (code, answer) == (0, "a dog\n") and "where.png" in told
    with Image.open(out) as image, Image.open(PICTURE) as picture:
        assert image.size == picture.size and image.format == "PNG"
    caption = tmp_path / "caption.jpg"
    code, told, _ = run("caption", str(PICTURE), "--where", str(caption), "--json")
    assert code == 0 and json.loads(told)["caption"] and caption.is_file()
    page = tmp_path / "where.html"
    code, answer, _ = run("ask", str(PICTURE), "what is on the left?", "--where", str(page))
    assert code == 0 and page.read_text("utf-8").count("<img") == 1 + len(answer.split())
    assert run("ask", str(PICTURE), "what?", "--where", "map.txt")[0] == 2
    code, _, told = run("ask", str(PICTURE), "what?", "--where", str(out), "--where-method", "guess")
    assert code == 2 and "none of occlusion, gradient, attention" in told
    code, _, told = run("ask", str(PICTURE), "what?", "--where-method", "gradient")
    assert code == 2 and "--where FILE" in told
    code, _, told = run(
        "ask", str(PICTURE), "what?", "--engine", "onnx", "--where", str(out), "--where-method", "gradient"
    )
    assert code == 1 and "use --where-method occlusion, or load the model with --engine torch" in told
    assert run("ask", str(PICTURE), "what?", "--where", str(tmp_path / "no" / "a.png"))[0] == 2
    assert run("caption", str(PICTURE), str(PICTURE), "--where", str(out))[0] == 2
