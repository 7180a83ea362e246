"""The accuracy command: what counts as right, and that it asks what a chat asks."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app
from blip2_chat.evaluation.held_out import SETS, Evaluation, HeldOut, Report, objects_named, plain, plural
from training.catalog import KINDS

TALKS: list[tuple[list[str], str, str]] = [
    ([], "what is it?", "what"),
    (["what is on the left?"], "and on the right?", "follow-up"),
    ([], "how  many cats are there?", "count"),
    (["what is it?", "why?"], "which city is this?", "follow-up"),
]


@pytest.fixture(scope="module", params=["opt", "t5"])
def model(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> blip2_chat.Model:
    return blip2_chat.load(checkpoint(request.param), engine="onnx", precision="fp32", threads=1)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip2_chat.evaluation.held_out._BATCH", 3)


CAPTION = {"picture": "0.png", "caption": "a\u2028dog", "objects": ["dog"]}


def png(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def write_set(path: Path, questions: Sequence[dict[str, Any]], captions: Sequence[dict[str, Any]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for seed in range(5):
            archive.writestr(f"{seed}.png", png(seed))
        for name, lines in (("questions", questions), ("captions", captions)):
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            archive.writestr(f"{name}.jsonl", text)
    return path


@pytest.fixture(scope="module")
def held_out(model: blip2_chat.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 questions whose right answers are what chats about 2 pictures say, and 2 captions likewise."""
    questions = []
    captions = []
    for seed in range(2):
        for before, question, task in TALKS:
            chat = model.chat(png(seed))
            turns = [[one, chat.ask(one).text] for one in before]
            answer = chat.ask(question).text
            questions.append(
                {
                    "picture": f"{seed}.png",
                    "turns": turns,
                    "question": question,
                    "answer": f" {answer.upper()}. ",
                    "task": task,
                }
            )
        caption = model.chat(png(seed)).caption().text
        captions.append({"picture": f"{seed}.png", "caption": caption, "objects": ["dog"]})
    return write_set(tmp_path_factory.mktemp("sets") / "set.zip", questions, captions)


def test_it_asks_what_a_chat_asks(model: blip2_chat.Model, held_out: Path) -> None:
    told: list[tuple[str, int, int]] = []
    report = Evaluation(model, HeldOut.open(held_out)).run(lambda *progress: told.append(progress))
    assert report.asked == {"what": 2, "follow-up": 4, "count": 2}
    assert report.right == report.asked
    assert report.exact_match == report.caption_match == 1.0
    assert report.captions == 2
    assert told == [("questions", 3, 8), ("questions", 6, 8), ("questions", 8, 8), ("captions", 2, 2)]
    assert report.seconds > 0


def test_turns_before_matter(model: blip2_chat.Model, held_out: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(held_out) as archive:
        questions = [json.loads(line) for line in archive.read("questions.jsonl").splitlines()]
        captions = [json.loads(line) for line in archive.read("captions.jsonl").splitlines()]
    for question in questions:
        question["turns"] = []
    bare = write_set(tmp_path / "bare.zip", questions, captions)
    report = Evaluation(model, HeldOut.open(bare)).run()
    assert report.task_match("what") == 1.0
    assert report.task_match("follow-up") < 1.0
    assert report.exact_match == pytest.approx(report.right.total() / 8)


def test_limit(model: blip2_chat.Model, held_out: Path) -> None:
    report = Evaluation(model, HeldOut.open(held_out), limit=1).run()
    assert (report.asked.total(), report.captions) == (1, 1)


def test_broken_off_it_keeps_its_counts(
    model: blip2_chat.Model, held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = Evaluation(model, HeldOut.open(held_out))
    write = Evaluation._write

    def until_third_batch(self: Evaluation, pictures: Any, prompts: Any) -> list[str]:
        if self.report.asked.total() == 6:
            raise KeyboardInterrupt
        return write(self, pictures, prompts)

    monkeypatch.setattr(Evaluation, "_write", until_third_batch)
    with pytest.raises(KeyboardInterrupt):
        evaluation.run()
    assert (evaluation.report.asked.total(), evaluation.report.exact_match) == (6, 1.0)
    assert evaluation.report.seconds > 0

    monkeypatch.setattr("blip2_chat.loading.load", lambda *_, **__: model)
    result = CliRunner().invoke(app, ["evaluate", "--set", str(held_out), "--json"])
    assert result.exit_code == 130
    assert json.loads(result.stdout)["questions"] == 6


def test_caption_score(model: blip2_chat.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = [["dog", "dog", "cat"], ["ice cream"], ["Butterfly", "pineapple"], ["bus"]]
    said = [
        "Two dogs and a bus on a red background",  # dog right; bus wrong, cat missing
        "an ice cream",  # right
        "two butterflies and an apple",  # butterfly right; an apple is no kind of this set
        "a business",  # bus missing
    ]
    lines = [
        {"picture": f"{seed}.png", "caption": "an ice cream.", "objects": objects}
        for seed, objects in enumerate(truth)
    ]
    path = write_set(tmp_path / "captions.zip", [], lines)
    written = iter(said)
    monkeypatch.setattr(
        Evaluation, "_write", lambda self, pictures, prompts: [next(written) for _ in prompts]
    )
    report = Evaluation(model, HeldOut.open(path)).run()
    assert (report.hits, report.named, report.there) == (3, 4, 6)
    assert (report.precision, report.recall) == (3 / 4, 3 / 6)
    assert report.caption_f1 == pytest.approx(2 * (3 / 4) * (3 / 6) / (3 / 4 + 3 / 6))
    assert report.caption_match == 1 / 4


def test_an_evaluation_without_questions_does_not_divide_by_zero() -> None:
    assert (Report().exact_match, Report().caption_f1, Report().caption_match) == (0.0, 0.0, 0.0)


def test_plain_text_is_normalised() -> None:
    assert plain(" A dog. ") == plain("a DOG") == "a dog"
    assert plain("a dog, a cat") != plain("a dog a cat")


def test_every_kind_is_found_in_singular_and_plural() -> None:
    names = frozenset(kind.name for kind in KINDS)
    for kind in KINDS:
        for form in (kind.name, kind.plural):
            assert objects_named(f"there is {form}, on blue", names) == {kind.name}
    assert objects_named("pineapples and footballs", names) == {"pineapple"}
    assert [plural(one) for one in ("monkey", "butterfly", "bus", "key")] == [
        "monkeys",
        "butterflies",
        "buses",
        "keys",
    ]


def test_a_file_that_is_not_a_held_out_set_is_reported(
    tmp_path: Path, checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(
        blip2_chat.Blip2ChatError, match=r"there is no held-out set .*; give seen or unseen, or a zip"
    ):
        HeldOut.open(tmp_path / "absent.zip")
    text = tmp_path / "text.zip"
    text.write_text("no zip")
    bare = tmp_path / "bare.zip"
    with zipfile.ZipFile(bare, "w") as archive:
        archive.writestr("questions.jsonl", '{"picture": "0.png"}\n')
    listed = write_set(tmp_path / "listed.zip", [], [{"picture": "0.png", "caption": 3, "objects": 3}])
    for path in (text, bare, listed):
        with pytest.raises(blip2_chat.Blip2ChatError, match="is not a held-out set"):
            HeldOut.open(path)

    damaged = tmp_path / "damaged.zip"
    with zipfile.ZipFile(damaged, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("questions.jsonl", "")
        archive.writestr("captions.jsonl", json.dumps(CAPTION) * 50)
    content = damaged.read_bytes()
    start = content.index(b"captions.jsonl") + len("captions.jsonl")
    damaged.write_bytes(content[:start] + b"\xff" * 20 + content[start + 20 :])
    with pytest.raises(blip2_chat.Blip2ChatError, match="is not a held-out set"):
        HeldOut.open(damaged)

    question = {"picture": "9.png", "turns": [], "question": "?", "answer": "", "task": "what"}
    absent = write_set(tmp_path / "absent.zip", [question], [])
    folder = str(checkpoint("t5"))
    result = CliRunner().invoke(app, ["evaluate", "--set", str(absent), "-m", folder, "--engine", "onnx"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "absent.zip: 9.png: " in result.stderr.splitlines()[-1]


def test_the_shipped_sets_are_whole() -> None:
    for name in SETS:
        held_out = HeldOut.open(name)
        assert (len(held_out.questions), len(held_out.captions)) == (2000, 500)
        assert held_out.object_names == {kind.name for kind in KINDS}
        assert {"what", "count", "background", "follow-up"} <= {one.task for one in held_out.questions}
        with zipfile.ZipFile(held_out.path) as archive:
            there = set(archive.namelist())
        assert {one.picture for one in (*held_out.questions, *held_out.captions)} <= there


def test_the_command_prints_its_figures(
    model: blip2_chat.Model, held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blip2_chat.loading.load", lambda *_, **__: model)
    result = CliRunner().invoke(app, ["evaluate", "--set", str(held_out), "--json"])
    figures = json.loads(result.stdout)
    assert (figures["questions"], figures["exact_match"], figures["captions"]) == (8, 1.0, 2)
    assert figures["tasks"]["follow-up"] == {"questions": 4, "exact_match": 1.0}
    assert (figures["caption_exact_match"], figures["caption_f1"]) == (1.0, 0.0)
    shown = CliRunner().invoke(app, ["evaluate", "--set", str(held_out), "--limit", "4"]).stdout
    assert "exact match       100.0%   4 of 4 questions" in shown
    assert "    follow-up       100.0%   2 of 2" in shown


def test_a_set_of_captions_alone_has_figures(
    model: blip2_chat.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = write_set(tmp_path / "captions.zip", [], [CAPTION])
    assert HeldOut.open(captions).captions[0].caption == CAPTION["caption"]
    monkeypatch.setattr("blip2_chat.loading.load", lambda *_, **__: model)
    shown = CliRunner().invoke(app, ["evaluate", "--set", str(captions)]).stdout
    assert "caption F1" in shown and "objects of 1 captions" in shown and "exact match" not in shown


def test_a_file_of_ones_own_is_scored_as_compare_scores_it(
    model: blip2_chat.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    chat = model.chat(tmp_path / "a.png")
    answer, caption = chat.ask("what is it?").text, chat.caption().text
    mine = tmp_path / "mine.csv"
    with mine.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["picture", "question", "answer"])
        lines.writerows(
            [["a.png", "what is it?", answer.upper() or "?"], ["a.png", "what is it?", "no such"]]
        )
        lines.writerow(["a.png", "", caption or "?"])
    monkeypatch.setattr("blip2_chat.loading.load", lambda *_, **__: model)
    result = CliRunner().invoke(app, ["evaluate", "--set", str(mine), "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["set"], figures["questions"], figures["captions"]) == ("mine.csv", 2, 1)
    assert figures["exact_match"] == 0.5
    shown = CliRunner().invoke(app, ["evaluate", "--set", str(mine), "--limit", "2"]).stdout
    assert "exact match        50.0%   2 questions" in shown and "CIDEr" not in shown
    absent = CliRunner().invoke(app, ["evaluate", "--set", "absent.csv"])
    assert absent.exit_code == 1 and absent.stderr.startswith("Error: absent.csv cannot be read")
