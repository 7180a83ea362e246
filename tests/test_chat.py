"""A conversation: its context, its memory, and what is kept when something goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import blip2_chat
from blip2_chat.chat import Chat
from blip2_chat.errors import ConversationError, GenerationError
from blip2_chat.images import PictureLimits
from blip2_chat.model import Model
from blip2_chat.prompts import PromptTemplate
from tests.support.extras import needs


@pytest.fixture(scope="module", params=["opt", "t5"])
def folder(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Path:
    return checkpoint(request.param, 4)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return blip2_chat.load(folder, engine="onnx", precision="fp32", threads=1)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def in_transformers(folder: Path, picture: Image.Image, prompt: str, length: int) -> str:
    """The common tutorial's few lines, on the same checkpoint."""
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    processor = Blip2Processor.from_pretrained(folder)
    reference = Blip2ForConditionalGeneration.from_pretrained(folder)
    inputs = processor(images=picture, text=prompt, return_tensors="pt")
    written = reference.generate(**inputs, max_new_tokens=length, do_sample=False)
    if reference.config.text_config.model_type == "opt":
        written = written[:, inputs["input_ids"].shape[1] :]
    return str(processor.batch_decode(written, skip_special_tokens=True)[0])


@needs("test-torch")
@pytest.mark.parametrize("prompt", ["", "this is a picture of", "Question: which city is this? Answer:"])
def test_a_raw_prompt_gives_what_transformers_gives(
    model: Model, folder: Path, picture: Image.Image, prompt: str
) -> None:
    answer = model.generate(picture, prompt, max_new_tokens=10)
    assert answer.text == in_transformers(folder, picture, prompt, 10).split("\n")[0].strip()
    assert answer.finish_reason in ("length", "stop")
    assert len(answer.tokens) <= 10
    assert 0 < answer.first_word_seconds <= answer.seconds


@needs("test-torch")
def test_a_conversation_is_the_prompt_of_its_turns(model: Model, folder: Path, picture: Image.Image) -> None:
    chat = model.chat(picture, max_new_tokens=6)
    first = chat.ask("how many cats?")
    second = chat.ask("  and\nwhere? ")
    ending = "Answer:" if model.engine.config.family == "opt" else "Short answer:"
    prompt = f"Question: how many cats? Answer: {first.text.rstrip('. ')}. Question: and where? {ending}"
    assert second.text == in_transformers(folder, picture, prompt, 6).split("\n")[0].strip()
    assert [turn.question for turn in chat.turns] == ["how many cats?", "and where?"]


def test_streamed_pieces_are_the_answer(model: Model, picture: Image.Image) -> None:
    chat = model.chat(picture, max_new_tokens=12)
    pieces = list(chat.stream("what is this?"))
    assert (
        "".join(pieces)
        == chat.turns[-1].text
        == model.chat(picture, max_new_tokens=12).ask("what is this?").text
    )


def test_undo_takes_the_turn_out_of_the_context(model: Model, picture: Image.Image) -> None:
    chat = model.chat(picture, max_new_tokens=6)
    chat.ask("one?")
    second = chat.ask("two?")
    assert chat.undo().question == "two?"
    assert chat.ask("two?").tokens == second.tokens
    chat.reset()
    assert chat.turns == []
    assert chat.ask("two?").tokens == model.chat(picture, max_new_tokens=6).ask("two?").tokens
    chat.reset()
    with pytest.raises(ConversationError, match="no turn"):
        chat.undo()


def test_a_caption_is_no_context(model: Model, picture: Image.Image) -> None:
    chat = model.chat(picture, max_new_tokens=6)
    assert chat.caption("a photo of").text == model.generate(picture, "a photo of", max_new_tokens=6).text
    assert chat.ask("one?").tokens == model.chat(picture, max_new_tokens=6).ask("one?").tokens
    assert [turn.start for turn in chat.turns] == ["a photo of", ""]


def test_a_long_conversation_forgets_its_oldest_turns_and_says_so(model: Model, picture: Image.Image) -> None:
    chat = model.chat(picture, max_new_tokens=5)
    while not (turn := (chat.ask("what is this long question about, " * 4), chat.turns[-1])[1]).dropped_turns:
        assert len(chat.turns) < 60
    assert 0 < turn.dropped_turns < len(chat.turns) - 1
    assert turn.answer.prompt_tokens <= model.engine.config.text.context_length


def test_a_question_longer_than_the_context_is_refused_and_costs_nothing(
    model: Model, picture: Image.Image
) -> None:
    chat = model.chat(picture, max_new_tokens=5)
    chat.ask("one?")
    for question, said in (("word " * 3000, "fit beside the picture"), ("  ", "is empty")):
        with pytest.raises(GenerationError, match=said):
            chat.ask(question)
    assert len(chat.turns) == 1
    with pytest.raises(GenerationError, match="fit beside the picture"):
        model.generate(picture, "word " * 3000)


@pytest.mark.parametrize("breaking", [KeyboardInterrupt, GeneratorExit])
def test_an_answer_broken_off_keeps_what_was_written(
    model: Model, picture: Image.Image, breaking: type[BaseException]
) -> None:
    whole = model.chat(picture, max_new_tokens=20).ask("what is this?").text
    chat = model.chat(picture, max_new_tokens=20)
    stream = chat.stream("what is this?")
    got = next(stream)
    if breaking is GeneratorExit:
        stream.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert got and whole.startswith(got) and len(got) < len(whole)
    assert chat.turns[-1].text == got
    assert chat.turns[-1].answer.finish_reason == "interrupted"
    # The conversation goes on as if the partial answer were all that was said.
    other = model.chat(picture, max_new_tokens=20)
    other.turns = [replace(chat.turns[0])]
    assert chat.ask("and now?").tokens == other.ask("and now?").tokens


def test_saved_and_loaded_it_goes_on_the_same(model: Model, picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    picture.save(path)
    chat = model.chat(path, max_new_tokens=6)
    chat.caption()
    chat.ask("one?", num_beams=3, num_answers=2)
    chat.save(tmp_path / "talk.json")
    again = model.load_chat(tmp_path / "talk.json")
    assert again.turns == chat.turns
    assert again.turns[-1].answer.others[0].text == chat.turns[-1].answer.others[0].text
    again.settings = chat.settings
    assert again.ask("two?").tokens == chat.ask("two?").tokens
    assert json.loads((tmp_path / "talk.json").read_text())["picture"]["source"] == str(path)


def reloaded(chat: Chat, folder: Path) -> Chat:
    """The conversation, saved and taken up again."""
    chat.save(folder / "talk.json")
    return chat.model.load_chat(folder / "talk.json")


def test_a_picture_without_a_path_is_saved_with_the_conversation(
    model: Model, picture: Image.Image, tmp_path: Path
) -> None:
    chat = model.chat(picture, max_new_tokens=3)
    chat.ask("one?")
    assert reloaded(chat, tmp_path).picture.digest == chat.picture.digest


def test_a_saved_picture_may_be_larger_than_a_file(
    model: Model, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "limits", PictureLimits(max_bytes=1000))
    chat = model.chat(picture)
    assert reloaded(chat, tmp_path).picture.digest == chat.picture.digest


def test_a_question_that_is_no_text_is_asked_and_saved(
    model: Model, picture: Image.Image, tmp_path: Path
) -> None:
    chat = model.chat(picture, max_new_tokens=3)
    chat.ask("caf\udce9?")
    assert reloaded(chat, tmp_path).turns == chat.turns


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as a conversation"),
        ('{"turns": []}', "not a conversation saved by blip2-chat"),
        ('{"format": "blip2-chat conversation 1"}', "is damaged"),
        ('{"format": "blip2-chat conversation 1", "picture": {"source": "x.png"}, "turns": 3}', "is damaged"),
        (
            '{"format": "blip2-chat conversation 1", "model": "m", "picture": {"name": "x", "source": "x.png", '
            '"digest": ""}, "turns": []}',
            "x.png was not found",
        ),
    ],
)
def test_a_damaged_conversation_is_one_line(model: Model, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "talk.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(blip2_chat.Blip2ChatError, match=said):
        model.load_chat(path)


@pytest.mark.parametrize("changed", [{"question": 3}, {"answer": {"text": None}}, {"answer": {}}])
def test_turns_that_are_no_texts_are_one_line(
    model: Model, picture: Image.Image, tmp_path: Path, changed: dict[str, Any]
) -> None:
    path = tmp_path / "talk.json"
    chat = model.chat(picture, max_new_tokens=3)
    chat.ask("one?")
    chat.save(path)
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["turns"][0].update(changed)
    path.write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(ConversationError, match="is damaged"):
        model.load_chat(path)


def test_a_conversation_does_not_go_on_about_another_picture(
    model: Model, picture: Image.Image, tmp_path: Path
) -> None:
    chat = model.chat(picture, max_new_tokens=3)
    chat.ask("one?")
    chat.save(tmp_path / "talk.json")
    with pytest.raises(ConversationError, match="is another picture"):
        model.load_chat(tmp_path / "talk.json", picture.rotate(90))
    with pytest.raises(ConversationError, match="cannot be written"):
        chat.save(tmp_path / "absent" / "talk.json")


def test_several_answers_come_best_first(model: Model, picture: Image.Image) -> None:
    answer = model.generate(picture, "a", num_beams=4, num_answers=3, max_new_tokens=6)
    every = [answer, *answer.others]
    assert len({one.tokens for one in every}) == 3
    assert [one.score for one in every] == sorted((one.score for one in every), reverse=True)
    assert answer.text == model.generate(picture, "a", num_beams=4, max_new_tokens=6).text


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(model: Model, picture: Image.Image) -> None:
    whole = model.generate(picture, "a", max_new_tokens=20).text
    stop = whole[len(whole) // 2 :][:2]
    cut = model.generate(picture, "a", max_new_tokens=20, stop=stop)
    assert cut.text == whole[: whole.index(stop)].strip()
    assert cut.finish_reason == "stop"
    beams = model.generate(picture, "a", max_new_tokens=20, stop=stop, num_beams=2)
    assert stop not in beams.text
    # As one with the last token that was allowed.
    few = {"max_new_tokens": 4, "num_beams": 2}
    text = model.generate(picture, "a", **few).text
    assert text and model.generate(picture, "a", stop=text, **few).finish_reason == "stop"


def test_the_template_can_be_another(model: Model, picture: Image.Image) -> None:
    template = PromptTemplate(question="Q: {question} A:", turn="Q: {question} A: {answer}", stop=("Q:",))
    chat = model.chat(picture, template=template, max_new_tokens=5)
    assert chat.ask("one?").tokens == model.generate(picture, "Q: one? A:", max_new_tokens=5).tokens


def test_wrong_settings_are_reported_before_the_first_question(model: Model, picture: Image.Image) -> None:
    with pytest.raises(GenerationError, match="unknown setting"):
        model.chat(picture, max_tokens=3)


def test_a_picture_is_encoded_once(
    model: Model, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    encode = model.engine.encode_image
    monkeypatch.setattr(model.engine, "encode_image", lambda pixels: (seen.append(pixels), encode(pixels))[1])
    bright = picture.point(lambda value: value // 2 + 3)
    model.chat(bright, max_new_tokens=2).ask("one?")
    model.chat(bright.copy(), max_new_tokens=2).ask("two?")
    assert len(seen) == 1


def test_only_the_torch_engine_and_training_import_torch() -> None:
    source = Path(blip2_chat.__file__).parent
    texts = {path: path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    users = {
        path.relative_to(source).parent.as_posix() for path, text in texts.items() if "import torch" in text
    }
    assert users == {"engines/torch", "tuning"}


def test_a_choice_is_a_turn_whose_answer_is_the_most_probable(model: Model, picture: Image.Image) -> None:
    """Context of the next question, as a generated answer is; ranked as `Model.score` says."""
    chat = model.chat(picture, max_new_tokens=5)
    chat.ask("what is this?")
    prompt = model.template.render(chat.exchanges, "is it big?")
    scores = dict(
        zip(["yes", "no", "a bit"], model.score(picture, prompt, ["yes", "no", "a bit"]), strict=True)
    )
    ranked = chat.choose(" is it\n big?", ["yes", "no", "a bit"])
    assert [answer for answer, _ in ranked] == sorted(scores, key=lambda one: -scores[one])
    turn = chat.turns[-1]
    assert turn.question == "is it big?" and turn.text == ranked[0][0]
    assert turn.answer.score == pytest.approx(scores[ranked[0][0]], abs=1e-4)
    assert [other.text for other in turn.answer.others] == [answer for answer, _ in ranked[1:]]
    assert chat.exchanges[-1].answer == ranked[0][0]
    with pytest.raises(GenerationError, match="twice"):
        chat.choose("is it big?", ["yes", "yes "])
    assert len(chat.turns) == 2
