"""What a person writes in Python: answers that are text, one-line calls, clear refusals, pickles, typed settings."""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from PIL import Image

import blip2_chat
from blip2_chat import Answer, Decoding, GenerationError, PictureError
from blip2_chat.generation.settings import Settings
from blip2_chat.loading import ENGINES, PRECISIONS, EngineChoice, PrecisionChoice

SETTINGS: Settings = {"max_new_tokens": 6}
apple = Answer(
    "a red apple", (5, 6, 7), (-0.1, -0.2, -0.3), score=-0.25, seconds=1.5, others=(Answer("an apple"),)
)


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("t5")


@pytest.fixture(scope="module")
def model(folder: Path) -> blip2_chat.Model:
    return blip2_chat.load(folder, engine="onnx", threads=1)


@pytest.fixture
def picture() -> Image.Image:
    return Image.radial_gradient("L").convert("RGB")


def test_an_answer_is_its_text() -> None:
    text = "a red apple"
    assert apple == text and text == apple and apple != "another"
    assert isinstance(apple, str) and type(apple.text) is str and type(str(apple)) is str
    assert "red" in apple and "blue" not in apple
    assert apple + "!" == "a red apple!" and "Oh, " + apple == "Oh, a red apple"
    assert f"{apple:>13}|" == "  a red apple|" and "%s" % apple == text  # noqa: UP031
    assert apple[2:5] == "red" and apple.split() == text.split() and apple.upper() == text.upper()
    assert len(apple) == 11 and list(apple) == list(text) and sorted([apple, "a"]) == ["a", text]
    assert hash(apple) == hash(text) and {text: 1}[apple] == 1 and {apple, text} == {text}
    assert json.dumps({apple: apple}) == json.dumps({text: text})
    assert " ".join([apple, apple]) == "a red apple a red apple"
    assert not Answer("") and Answer(apple) == text and type(Answer(apple).text) is str


def test_an_answer_keeps_what_is_known_about_it_and_cannot_be_changed() -> None:
    assert (apple.tokens, apple.score, apple.seconds, apple.others) == (
        (5, 6, 7),
        -0.25,
        1.5,
        ("an apple",),
    )
    copies = [pickle.loads(pickle.dumps(apple, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for one in (
        *copies,
        copy.copy(apple),
        copy.deepcopy(apple),
        dataclasses.replace(apple, prompt_tokens=0),
    ):
        assert type(one) is Answer and one == apple
        assert dataclasses.asdict(one) == dataclasses.asdict(apple)
    assert dataclasses.replace(apple, text="no") == "no"
    with pytest.raises(dataclasses.FrozenInstanceError):
        apple.score = 1.0  # type: ignore[misc]


def test_the_repr_of_an_answer_is_one_line() -> None:
    assert repr(apple) == (
        "Answer('a red apple', score=-0.25, tokens=3, finish_reason='stop', seconds=1.5, others=1)"
    )
    assert "\n" not in repr(Answer("two\nlines", tuple(range(999)), (0.0,) * 999))
    assert len(repr(Answer("x", tuple(range(999)), (0.0,) * 999))) < 100


def test_one_line_calls_are_a_new_chat_each(model: blip2_chat.Model, picture: Image.Image) -> None:
    chat = model.chat(picture, **SETTINGS)
    assert model.caption(picture, **SETTINGS) == chat.caption()
    assert model.caption(picture, "a photo of", **SETTINGS) == chat.caption("a photo of")
    first = chat.ask("what is it?")
    assert model.ask(picture, "what is it?", **SETTINGS) == first
    assert (
        model.ask(picture, "what is it?", **SETTINGS) == first
    )  # without the question before as its context


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (None, "the question is None"),
        (b"what?", "the question is of type bytes"),
        (5, "the question is of type int"),
        (["what?"], "the question is of type list"),
        ("", "the question is empty"),
        (" \n", "the question is empty"),
    ],
)
def test_a_wrong_question_is_reported(
    model: blip2_chat.Model, picture: Image.Image, question: Any, said: str
) -> None:
    chat = model.chat(picture)
    for ask in (chat.ask, chat.stream, lambda asked: model.ask(picture, asked)):
        with pytest.raises(GenerationError, match=said):
            ask(question)
    assert chat.turns == []


def test_wrong_pictures_starts_and_prompts_are_reported(
    model: blip2_chat.Model, picture: Image.Image
) -> None:
    wrong: Any
    for wrong in (None, 5, ["photo.jpg"]):
        for use in (model.caption, model.generate, model.chat, lambda one: model.ask(one, "what is it?")):
            with pytest.raises(PictureError, match="is not a picture; give a path"):
                use(wrong)
    for wrong in (5, b"a photo of"):
        with pytest.raises(GenerationError, match="start is of type"):
            model.caption(picture, wrong)
        with pytest.raises(GenerationError, match="the prompt is of type"):
            model.generate(picture, wrong)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"num_beam": 5},
            r"unknown setting 'num_beam' \(did you mean num_beams\?\); known: max_new_tokens, ",
        ),
        ({"num_return_sequences": 2}, r"\(did you mean num_answers\?\)"),
        ({"max_tokens": 5}, r"\(did you mean max_new_tokens\?\)"),
        ({"colour": 1}, r"unknown setting 'colour'; known"),
        ({"num_beams": "5"}, "num_beams is '5'; give a whole number"),
        ({"num_beams": True}, "num_beams is True; give a whole number"),
        ({"max_new_tokens": 5.0}, r"max_new_tokens is 5\.0; give a whole number"),
        ({"max_new_tokens": None}, "max_new_tokens is None; give a whole number"),
        ({"temperature": "hot"}, "temperature is 'hot'; give a number"),
        ({"temperature": 1, "top_p": "all"}, "top_p is 'all'; give a number or None"),
        ({"temperature": 1, "seed": 1.5}, r"seed is 1\.5; give a whole number or None"),
        ({"stop": 5}, "stop is 5; give a string"),
        ({"stop": ["a", 5]}, "stop holds 5; give strings"),
        ({"stop": [""]}, "stop holds ''; give strings"),
    ],
)
def test_unknown_settings_are_reported_before_the_picture_is_opened(
    model: blip2_chat.Model, settings: Any, said: str
) -> None:
    for use in (
        model.caption,
        model.chat,
        model.generate,
        lambda one, **given: model.ask(one, "what?", **given),
    ):
        with pytest.raises(GenerationError, match=said):
            use("nowhere.png", **settings)


def test_the_typed_names_are_the_real_ones() -> None:
    assert list(Settings.__annotations__) == [field.name for field in dataclasses.fields(Decoding)]
    assert set(get_args(PrecisionChoice)) == set(PRECISIONS)
    assert set(get_args(EngineChoice)) == set(ENGINES)
    assert "settings" in get_type_hints(blip2_chat.Chat.ask)  # what documentation tools call


@pytest.mark.slow
def test_mypy_refuses_wrong_settings(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    snippet = tmp_path / "snippet.py"
    snippet.write_text(
        "import blip2_chat\n"
        'model = blip2_chat.load(precision="int8", engine="onnx")\n'
        'text: str = model.ask("a.png", "what?", num_beams=5, stop="x", top_k=None)\n'
        'model.caption("a.png", "a photo of", max_new_tokens=9)\n'
        'chat = model.chat("a.png", temperature=0.5)\n'
        'score: float = chat.ask("what?", seed=1).score\n'
        'model.ask("a.png", "what?", num_beam=5)\n'
        'chat.ask("what?", num_beams="5")\n'
        "chat.ask(None)\n"
        'blip2_chat.load(precision="int3")\n'
        'blip2_chat.load(engine="tensorflow")\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--no-error-summary"]
    command += [
        "--config-file",
        "",
        "--cache-dir",
        str(tmp_path / "cache"),
        "--ignore-missing-imports",
        str(snippet),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    lines = [
        int(line.split("snippet.py:")[1].split(":")[0])
        for line in done.stdout.splitlines()
        if "error" in line
    ]
    assert sorted(set(lines)) == [7, 8, 9, 10, 11], done.stdout + done.stderr
    assert 'did you mean "num_beams"?' in done.stdout


def test_a_pickled_model_is_loaded_where_it_is_unpickled(
    model: blip2_chat.Model, picture: Image.Image
) -> None:
    again = pickle.loads(pickle.dumps(model))
    assert again is not model and again.plan == dataclasses.replace(model.plan, reason=again.plan.reason)
    assert again.caption(picture, **SETTINGS) == model.caption(picture, **SETTINGS)
    assert pickle.dumps(again) == pickle.dumps(model)
    again.close()


def test_a_pickled_model_keeps_all_it_was_loaded_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = blip2_chat.PromptTemplate(question="Q: {question} A:")
    limits = blip2_chat.PictureLimits(max_bytes=12345)
    monkeypatch.chdir(folder.parent)  # found from elsewhere, too
    given = blip2_chat.load(
        folder.name, engine="onnx", threads=1, template=template, limits=limits, token="secret", force=True
    )
    data = pickle.dumps(given)
    assert b"secret" not in data
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert (again.template, again.limits, again.reduction) == (template, limits, given.reduction)
    assert again.reduction[1][0].threads == 1 and again.reduction[1][0].force


def test_the_same_model_pickles_to_the_same_bytes_in_every_process(
    folder: Path, model: blip2_chat.Model
) -> None:
    code = (
        "import blip2_chat, pickle, sys; "
        "sys.stdout.buffer.write(pickle.dumps(blip2_chat.load(sys.argv[1], engine='on' + 'nx', threads=1)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, check=True)
    model.caption(Image.new("RGB", (9, 9)), **SETTINGS)  # what it has done is no part of what it is
    assert done.stdout == pickle.dumps(model)


def _ask(chat: blip2_chat.Chat) -> Any:
    return chat.ask("and why?"), [turn.text for turn in chat.turns]


def test_a_chat_goes_on_in_another_process(model: blip2_chat.Model, picture: Image.Image) -> None:
    chat = model.chat(picture, **SETTINGS)
    chat.ask("what is it?")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there, turns = pool.apply(_ask, (chat,))
    here = chat.ask("and why?")
    assert (there, there.tokens) == (here, here.tokens)
    assert turns == [turn.text for turn in chat.turns]


def test_copies_of_a_model_are_the_model(model: blip2_chat.Model) -> None:
    assert copy.copy(model) is model and copy.deepcopy([model])[0] is model


def test_a_model_not_made_by_load_refuses_to_be_pickled(model: blip2_chat.Model) -> None:
    own = blip2_chat.Model(model.engine, model.tokenizer, model.preprocess, "mine")
    with pytest.raises(pickle.PicklingError, match=r"only a model made by blip2_chat\.load"):
        pickle.dumps(own)


def test_python_m_is_the_command_line() -> None:
    for given in ("--help", "ask --help", "--version"):
        done = subprocess.run(
            [sys.executable, "-m", "blip2_chat", *given.split()], capture_output=True, text=True, check=True
        )
        assert "blip2-chat" in done.stdout and "python" not in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "blip2_chat", "caption", "nowhere.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: nowhere.png was not found")
