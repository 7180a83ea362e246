"""The command line: caption, ask, their options and errors. In this process, on a random tiny checkpoint."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app
from blip2_chat.cli.options import WritingOptions
from blip2_chat.engines.onnx import OnnxEngine
from blip2_chat.generation.settings import Decoding


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("t5")


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a command with the tiny model, and short answers."""
    monkeypatch.setenv("BLIP2_CHAT_MODEL", str(folder))

    def invoke(command: str, *arguments: str, **more: Any) -> Any:
        usual = ("--engine", "onnx", "--precision", "fp32", "--max-new-tokens", "6")
        return CliRunner().invoke(app, [command, *usual, *arguments], **more)

    return invoke


@pytest.fixture(scope="module")
def model(folder: Path) -> blip2_chat.Model:
    return blip2_chat.load(folder, engine="onnx", precision="fp32")


def entries(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def test_ask_json_is_the_conversation_of_the_api(
    run: Callable[..., Any], pictures: list[str], model: blip2_chat.Model
) -> None:
    result = run("ask", pictures[0], "what is it?", "and why?", "--json")
    assert result.exit_code == 0
    chat = model.chat(pictures[0], max_new_tokens=6)
    expected = [chat.ask("what is it?"), chat.ask("and why?")]
    for entry, question, answer in zip(entries(result), ("what is it?", "and why?"), expected, strict=True):
        assert entry["picture"] == pictures[0]
        assert (entry["question"], entry["answer"]) == (question, answer.text)
        assert (entry["tokens"], entry["finish_reason"]) == (len(answer.tokens), answer.finish_reason)
        assert (entry["model"], entry["engine"], entry["precision"]) == (model.name, "onnx", "fp32")
        assert entry["score"] == pytest.approx(answer.score, abs=1e-3)
        assert 0 < entry["first_word_seconds"] <= entry["seconds"]
        assert entry["advice"] == []


def test_ask_prints_one_line_per_question(
    run: Callable[..., Any], pictures: list[str], model: blip2_chat.Model
) -> None:
    result = run("ask", pictures[0], "what is it?", " ", "and why?")
    chat = model.chat(pictures[0], max_new_tokens=6)
    assert result.stdout.split("\n") == [
        printable(chat.ask("what is it?").text),
        printable(chat.ask("and why?").text),
        "",
    ]
    assert result.stderr == "Error: the question is empty: ask something about the picture\n"
    assert result.exit_code == 1


def test_ask_about_an_unreadable_picture_is_an_error_entry(
    run: Callable[..., Any], pictures: list[str]
) -> None:
    result = run("ask", pictures[1], "what is it?", "--json")
    assert result.exit_code == 1
    (entry,) = entries(result)
    assert entry["picture"] == pictures[1]
    assert entry["error"].startswith("two.png is text")
    assert result.stderr == f"Error: {entry['error']}\n"


def test_caption_does_the_rest_when_one_picture_is_bad(
    run: Callable[..., Any], pictures: list[str], model: blip2_chat.Model
) -> None:
    captions = [model.chat(pictures[at], max_new_tokens=6).caption().text for at in (0, 2)]
    result = run("caption", *pictures, "--json")
    assert result.exit_code == 1
    first, bad, last = entries(result)
    assert [first["caption"], last["caption"]] == captions
    assert [entry["picture"] for entry in (first, bad, last)] == pictures
    assert set(bad) == {"picture", "error"}

    result = run("caption", *pictures)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{pictures[0]}: {printable(captions[0])}",
        f"{pictures[2]}: {printable(captions[1])}",
    ]
    assert result.stderr.count("Error: two.png is text") == 1


def test_one_caption_has_no_name_and_may_have_a_start(
    run: Callable[..., Any], pictures: list[str], model: blip2_chat.Model
) -> None:
    said = model.chat(pictures[0], max_new_tokens=6).caption("a photo of").text
    result = run("caption", pictures[0], "--start", "a photo of ")
    assert (result.exit_code, result.stdout) == (0, f"a photo of {printable(said)}\n")


def test_picture_from_stdin(run: Callable[..., Any], pictures: list[str], model: blip2_chat.Model) -> None:
    result = run("caption", "-", "--json", input=Path(pictures[2]).read_bytes())
    assert entries(result)[0]["caption"] == model.chat(pictures[2], max_new_tokens=6).caption().text


def test_no_model_is_loaded_for_want_of_a_picture(pictures: list[str]) -> None:
    for command in (["caption", pictures[1]], ["ask", pictures[1], "?"], ["chat", pictures[1]]):
        result = CliRunner().invoke(app, [*command, "--model", "/nowhere/at/all"])
        assert result.exit_code == 1
        assert "two.png" in result.stderr
        assert "/nowhere" not in result.stderr


def test_advice_goes_to_stderr_and_into_the_entry(run: Callable[..., Any], tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "white").save(tmp_path / "dot.png")
    result = run("caption", str(tmp_path / "dot.png"), "--json")
    assert "This picture is tiny" in entries(result)[0]["advice"][0]
    assert "dot.png: This picture is tiny" in result.stderr


def test_several_answers(run: Callable[..., Any], pictures: list[str], model: blip2_chat.Model) -> None:
    beams = ("--beams", "3", "--answers", "2")
    best = model.chat(pictures[0], max_new_tokens=6, num_beams=3, num_answers=2).ask("what?")
    (entry,) = entries(run("ask", pictures[0], "what?", *beams, "--json"))
    assert entry["answer"] == best.text
    assert [other["text"] for other in entry["others"]] == [best.others[0].text]
    lines = run("ask", pictures[0], "what?", *beams).stdout.splitlines()
    assert lines == [printable(best.text), printable(best.others[0].text)]


def test_every_writing_option_reaches_decoding() -> None:
    options = WritingOptions(
        max_new_tokens=9,
        min_new_tokens=2,
        length_penalty=0.5,
        answers=2,
        temperature=0.7,
        top_k=4,
        top_p=0.8,
        seed=11,
        repetition_penalty=1.5,
        no_repeat_ngram=3,
        stop=["a", "b"],
    )
    assert Decoding.of(**options.settings()) == Decoding(
        max_new_tokens=9,
        min_new_tokens=2,
        length_penalty=0.5,
        num_answers=2,
        temperature=0.7,
        top_k=4,
        top_p=0.8,
        seed=11,
        repetition_penalty=1.5,
        no_repeat_ngram_size=3,
        stop=("a", "b"),
    )
    assert WritingOptions(beams=4).settings() == {"num_beams": 4}
    assert WritingOptions(temperature=0.0, seed=0).settings() == {"temperature": 0.0, "seed": 0}
    assert WritingOptions().settings() == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--beams", "2", "--temperature", "1"),
            "--temperature is 1.0; beam search (--beams is 2) does not sample",
        ),
        (("--min-new-tokens", "9"), "--min-new-tokens is 9; give at most --max-new-tokens, which is 6"),
        (("--answers", "4", "--beams", "2"), "--answers is 4; give at most --beams, which is 2"),
        (("--top-k", "3"), "--top-k is 3; it applies to sampling only: set --temperature above 0"),
    ],
)
def test_contradictory_options_are_reported_before_loading(
    run: Callable[..., Any],
    pictures: list[str],
    options: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blip2_chat.loading.load", lambda *_, **__: pytest.fail("a model was loaded"))
    result = run("ask", pictures[0], "?", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert said in result.stderr


def test_a_run_generates_as_a_caption_does() -> None:
    def options(command: str) -> dict[str, str]:
        found = get_command(app).commands[command].params  # type: ignore[attr-defined]
        return {one.opts[0]: one.help for one in found if one.opts[0].startswith("--")}

    one, many = options("caption"), options("run")
    generation = ["start", "beams", "length-penalty", "temperature", "top-k", "top-p", "seed"]
    generation += ["max-new-tokens", "min-new-tokens", "repetition-penalty", "no-repeat-ngram", "stop"]
    assert all(f"--{name}" in many for name in generation)
    assert {name: many.get(name, help) for name, help in one.items()} == one, (
        "the same words for the same thing"
    )


def test_a_run_names_options_as_they_are_typed(pictures: list[str]) -> None:
    result = CliRunner().invoke(app, ["run", *pictures, "--out", "c.csv", "--beams", "0"])
    assert (result.exit_code, result.stderr) == (1, "Error: --beams is 0; give at least 1\n")


@pytest.mark.parametrize("command", ["caption", "run"])
def test_a_seed_below_zero_is_refused(command: str, pictures: list[str]) -> None:
    result = CliRunner().invoke(app, [command, *pictures, "--temperature", "1", "--seed", "-1"])
    assert (result.exit_code, result.stderr) == (1, "Error: --seed is -1; give 0 or more\n")


def test_model_options_reach_load(pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def load(name: str, **options: Any) -> None:
        seen.update(options, name=name)
        raise blip2_chat.CheckpointError("enough seen")

    monkeypatch.setattr("blip2_chat.loading.load", load)
    monkeypatch.setenv("BLIP2_CHAT_MODEL", "from/environment")
    where = ["--precision", "int4", "--engine", "onnx", "--device", "cpu", "--threads", "3"]
    result = CliRunner().invoke(app, ["ask", pictures[0], "?", *where, "--revision", "v2", "--force"])
    assert result.stderr == "Error: enough seen\n"
    del seen["on_progress"], seen["limits"]
    assert seen == {
        "name": "from/environment",
        "precision": "int4",
        "engine": "onnx",
        "device": "cpu",
        "revision": "v2",
        "processor": None,
        "adapter": None,
        "force": True,
        "threads": 3,
    }
    CliRunner().invoke(app, ["ask", pictures[0], "?", "-m", "mine"])
    assert (seen["name"], seen["precision"], seen["force"]) == ("mine", "auto", False)


def test_a_picture_of_many_megapixels_is_refused_with_the_option_that_opens_it(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "phone.png")
    Image.new("RGB", (1250, 1001)).save(path)
    for command in (["caption", path], ["ask", path, "?"]):
        refused = run(*command, "--max-megapixels", "1")
        assert refused.exit_code == 1
        assert (
            "phone.png has 1250 x 1001 pixels" in refused.stderr and "--max-megapixels 2," in refused.stderr
        )
        assert run(*command, "--max-megapixels", "2").exit_code == 0
    listed = run("run", path, "--out", str(tmp_path / "out.jsonl"), "--max-megapixels", "1")
    assert listed.exit_code == 3
    assert "--max-megapixels 2," in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_an_unexpected_error_is_one_line(
    run: Callable[..., Any], pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("deep\ninside")

    monkeypatch.setattr("blip2_chat.loading.load", broken)
    result = run("caption", pictures[0])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ZeroDivisionError: deep inside (")
    assert "blip2-chat doctor" in result.stderr
    assert result.stderr.count("\n") == 1
    monkeypatch.setenv("BLIP2_CHAT_DEBUG", "1")
    assert isinstance(run("caption", pictures[0]).exception, ZeroDivisionError)


def test_wrong_model_and_wrong_usage(run: Callable[..., Any], pictures: list[str]) -> None:
    result = run("ask", pictures[0], "?", "--model", "blip2-opt-27b")
    assert result.exit_code == 1
    assert "did you mean Salesforce/blip2-opt-2.7b" in result.stderr
    assert result.stderr.count("\n") == 1
    assert run("ask", pictures[0]).exit_code == 2
    assert run("ask", pictures[0], "?", "--threads", "0").exit_code == 2


def test_ctrl_c_keeps_the_partial_answer(
    run: Callable[..., Any], pictures: list[str], model: blip2_chat.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = {"max_new_tokens": 20, "min_new_tokens": 20}
    whole = model.chat(pictures[0], **length).ask("what is it?")
    steps = 0
    step = OnnxEngine.step

    def interrupted(self: OnnxEngine, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 15:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(OnnxEngine, "step", interrupted)
    options = ("--max-new-tokens", "20", "--min-new-tokens", "20", "--json")
    result = run("ask", pictures[0], "what is it?", "never asked", *options)
    assert result.exit_code == 130
    (entry,) = entries(result)
    assert (entry["finish_reason"], entry["tokens"]) == ("interrupted", 15)
    assert entry["answer"]
    assert whole.text.startswith(entry["answer"])
    assert result.stderr == ""

    steps = 0
    result = run("ask", pictures[0], "what is it?", "never asked", *options[:-1])
    assert (result.exit_code, result.stdout) == (130, printable(entry["answer"]) + "\n")


def test_dropped_turns_are_reported(checkpoint: Callable[..., Path], pictures: list[str]) -> None:
    short = str(checkpoint("opt", text={"max_position_embeddings": 90}))
    questions = [f"what is the {word} thing in this picture?" for word in ("first", "second", "third")]
    result = CliRunner().invoke(
        app,
        ["ask", pictures[0], *questions, "-m", short, "--engine", "onnx", "--max-new-tokens", "6", "--json"],
    )
    dropped = [entry.get("dropped_turns", 0) for entry in entries(result)]
    assert dropped[0] == 0
    assert dropped[-1] > 0
    assert "no longer fit the model's context" in result.stderr


def test_our_warnings_are_shown_and_others_are_not(
    run: Callable[..., Any], pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(*_: object, **__: object) -> None:
        warnings.warn("ours is told", stacklevel=2)  # from blip2_chat.cli.options
        warnings.warn_explicit("of a library", UserWarning, "other.py", 1, module="other")
        raise blip2_chat.CheckpointError("enough")

    monkeypatch.setattr("blip2_chat.loading.load", warned)
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings():
        result = run("caption", pictures[0])
    assert result.stderr == "Warning: ours is told\nError: enough\n"
