"""InstructBLIP as its users meet it: prompts as they are, and a picture that is another one to each instruction."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blip2_chat
from blip2_chat.checkpoint.config import ModelConfig
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.checkpoint.tokenizer import Tokenizer
from blip2_chat.conversion.convert import convert
from blip2_chat.errors import CheckpointError
from blip2_chat.generation.rows import Task
from blip2_chat.generation.text_stream import TextStream
from blip2_chat.model import Model
from blip2_chat.system.recent import Recent
from tests.support.extras import needs
from tests.support.fake_hub import fake_hub

PAGE = (Path(__file__).parents[1] / "docs" / "instruct.md").read_text(encoding="utf-8")
FAMILIES = ("instruct-t5", "instruct-llama")
TEXTS = ("what colour is the car?", "", "A dog!  Running\non the beach, at 7 é", "how many cats? " * 30)
QUESTIONS = ("how many cats are there?", "what colour is the car on the left?")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Path:
    return checkpoint(request.param, 4)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return blip2_chat.load(folder, engine="onnx", precision="fp32", threads=1)


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(2)
    return [Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)) for _ in range(count)]


@needs("test-torch")
def test_both_tokenizers_read_what_transformers_processor_reads(folder: Path) -> None:
    from transformers import InstructBlipProcessor

    processor = InstructBlipProcessor.from_pretrained(folder)
    tokenizer = Tokenizer.from_folder(folder, ModelConfig.from_folder(folder))
    for text in TEXTS:
        theirs = processor(text=text)
        assert tokenizer.encode(text) == theirs["input_ids"][0]
        assert list(tokenizer.instruction(text)) == theirs["qformer_input_ids"][0]


def test_of_a_long_instruction_the_q_former_reads_the_end(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder, ModelConfig.from_folder(folder))
    long, short = tokenizer.instruction("cats " * 600 + "why?"), tokenizer.instruction("why?")
    assert len(long) == 512 and long[0] == short[0] and long[-len(short) + 1 :] == short[1:]


def test_control_tokens_that_people_type_are_text(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder, ModelConfig.from_folder(folder))
    assert tokenizer.instruction("[SEP]").count(3) == 1
    assert len(tokenizer.instruction("[SEP]")) > 3
    # What Vicuna writes for LAVIS's id 0, and the end, are no text.
    words = tokenizer.encode_answer("two cats", "how many?")
    assert (
        tokenizer.decode([0, *words, *ModelConfig.from_folder(folder).text.eos_token_ids]).strip()
        == "two cats"
    )


def test_text_is_decoded_as_the_library_does_and_never_taken_back(folder: Path) -> None:
    config = ModelConfig.from_folder(folder)
    tokenizer = Tokenizer.from_folder(folder, config)
    for text in ("how many cats?", "two  cats on é beach \N{CAT FACE}\N{DOG FACE} at night", "Question: why"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == tokenizer._tokenizer.decode(ids, skip_special_tokens=True)
    rng = np.random.default_rng(0)
    stream, ids = TextStream(tokenizer), rng.integers(3, config.text.vocab_size - 4, 200).tolist()
    assert "".join([*(stream.push(one) for one in ids), stream.finish()]) == tokenizer.decode(ids).strip()


def test_an_instruction_is_the_prompt_and_a_caption_is_asked_for(model: Model) -> None:
    assert model.template.render((), "Describe it.") == "Describe it."
    (picture,) = pictures(1)
    chat = model.chat(picture, max_new_tokens=5)
    caption = chat.caption()
    asked = model.generate(picture, "Write a short description for the image.", max_new_tokens=5)
    assert caption.tokens == asked.tokens
    assert chat.turns[0].start == "", "the instruction is no part of the caption"
    assert chat.caption("a photo of").tokens == model.generate(picture, "a photo of", max_new_tokens=5).tokens
    assert chat.turns[1].start == "a photo of"


def test_the_picture_is_encoded_once_and_vectors_are_made_once_per_prompt(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    (picture,) = pictures(1)
    calls: list[str] = []
    encode, query = model.engine.encode_image, model.engine.query

    def encoded(pixels: np.ndarray) -> np.ndarray:
        calls.append("picture")
        return encode(pixels)

    def queried(*given: object) -> np.ndarray:
        calls.append("prompt")
        return query(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(model.engine, "encode_image", encoded)
    monkeypatch.setattr(model.engine, "query", queried)
    model._pictures, model._vectors = Recent(8), Recent(8)
    for question in (*QUESTIONS, *QUESTIONS):
        model.ask(picture, question, max_new_tokens=3)
    assert calls == ["picture", "prompt", "prompt"]


def test_many_pictures_get_the_answers_that_each_gets_alone(model: Model, tmp_path: Path) -> None:
    paths = []
    for number, picture in enumerate(pictures(3)):
        paths.append(tmp_path / f"{number}.png")
        picture.save(paths[-1])
    results = blip2_chat.caption_all(paths, model=model, ask=QUESTIONS, batch_size=3, max_new_tokens=6)
    for path, result in zip(paths, results, strict=True):
        assert result.caption == model.caption(path, max_new_tokens=6)
        assert result.answers == {one: model.ask(path, one, max_new_tokens=6).text for one in QUESTIONS}


def test_a_task_without_its_instruction_is_a_mistake_that_is_noticed(model: Model) -> None:
    (picture,) = pictures(1)
    task = Task(model.tokenizer.encode("why?"), blip2_chat.Decoding())
    with pytest.raises(ValueError, match="each picture needs one"):
        model.query_vectors(model.open(picture), task.instruction)


def test_a_checkpoint_without_the_q_formers_tokenizer_is_one_line(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    shutil.rmtree(broken / "qformer_tokenizer")
    with pytest.raises(
        CheckpointError, match=r"lacks qformer_tokenizer/tokenizer\.json, with which"
    ) as caught:
        inspect(broken)
    assert "\n" not in str(caught.value)
    assert inspect(broken, folder).companion("qformer_tokenizer.json").is_file()


def test_a_converted_folder_has_both_tokenizers(folder: Path, model: Model, tmp_path: Path) -> None:
    out = convert(inspect(folder), tmp_path / "out", "fp32", name="it", check=False)
    (picture,) = pictures(1)
    made = blip2_chat.load(out, threads=1)
    assert (
        made.ask(picture, QUESTIONS[0], max_new_tokens=5).tokens
        == model.ask(picture, QUESTIONS[0], max_new_tokens=5).tokens
    )
    (out / "qformer_tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"qformer_tokenizer\.json"):
        blip2_chat.load(out, threads=1)


@pytest.mark.slow
def test_the_pages_commands_run(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """docs/instruct.md, with small random checkpoints under the official names."""
    pictures(1)[0].save(tmp_path / "photo.jpg")
    with fake_hub() as hub:
        for name, family in (("flan-t5-xl", FAMILIES[0]), ("vicuna-7b", FAMILIES[1])):
            hub.revisions[f"Salesforce/instructblip-{name}"] = {"main": checkpoint(family, 4)}
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hub"),
        }
        commands = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
        scripts = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        assert commands and scripts
        shell = "\n".join(commands).replace("blip2-chat", f"'{sys.executable}' -m blip2_chat")
        for argv in (["bash", "-ec", shell], *([sys.executable, "-c", script] for script in scripts)):
            done = subprocess.run(
                argv,
                cwd=tmp_path,
                env=environment,
                input="",
                capture_output=True,
                text=True,
                timeout=280,
            )
            assert done.returncode == 0, done.stderr


def test_the_preset_of_the_command_line(folder: Path, tmp_path: Path, model: Model) -> None:
    from typer.testing import CliRunner

    from blip2_chat.cli import app

    photo = tmp_path / "photo.png"
    pictures(1)[0].save(photo)

    def asked(*options: str) -> tuple[int, str, str]:
        arguments = ["ask", str(photo), QUESTIONS[0], "--model", str(folder), "--json", "--preset", *options]
        done = CliRunner().invoke(app, arguments)
        return done.exit_code, done.stdout, done.stderr

    settings = {**blip2_chat.instruct_settings(), "max_new_tokens": 12}
    code, said, told = asked("instruct", "--max-new-tokens", "12")
    assert code == 0, told
    assert json.loads(said)["answer"] == str(model.ask(photo, QUESTIONS[0], **settings))
    code, _, told = asked("poet")
    assert code == 2 and "there is no preset 'poet'; known: instruct" in " ".join(told.split())
