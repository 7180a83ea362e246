"""`blip2-chat compare`: the same questions for every engine and precision, each in a process of its own."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app
from blip2_chat.evaluation.compare import Item, Questions
from tests.support.extras import needs


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own file: questions with one and with several answers, and captions."""
    folder = tmp_path_factory.mktemp("own")
    lines = []
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{seed}.png")
        lines.append(
            {"picture": f"{seed}.png", "question": "what is it?", "answers": ["noise", "nothing", "noise"]}
        )
        lines.append({"picture": f"{seed}.png", "answer": "a picture of noise"})
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def compare(folder: Path, questions: Path, *arguments: str) -> Any:
    command = ["compare", "--model", str(folder), "--set", str(questions), *arguments]
    return CliRunner().invoke(app, command)


@pytest.mark.slow
@needs("test-torch")
def test_engines_and_precisions_side_by_side(
    checkpoint: Callable[..., Path], questions: Path, tmp_path: Path
) -> None:
    folder = checkpoint("opt", 8)
    plot = tmp_path / "costs.png"
    every = [part for name in ("onnx-fp32", "onnx-int4", "torch-fp32") for part in ("--with", name)]
    result = compare(folder, questions, *every, "--json", "--plot", str(plot))
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["engine"], row["precision"]) for row in rows] == [
        ("onnx", "fp32"), ("onnx", "int4"), ("torch", "fp32"),
    ]  # fmt: skip
    by_onnx, _, by_torch = ([one["answer"] for one in row["answers"]] for row in rows)
    assert by_onnx == by_torch
    chat = blip2_chat.load(folder, engine="torch").chat(questions.parent / "0.png")
    assert by_torch[:2] == [chat.ask("what is it?").text, chat.caption().text]
    for row in rows:
        assert row["exact_match"] == row["vqa_accuracy"] == 0
        assert 20e6 < row["memory"] < 4e9
        assert row["load_seconds"] > 0 and row["answer_seconds"] > 0
    # A process with torch in it is larger: each was measured by itself.
    assert rows[2]["memory"] > rows[0]["memory"]
    assert Image.open(plot).width > 400


def test_for_a_person_it_is_a_table_with_what_they_disagree_on(
    checkpoint: Callable[..., Path], questions: Path
) -> None:
    result = compare(
        checkpoint("opt", 8), questions, "--with", "onnx-fp32", "--with", "onnx-int4", "--limit", "2"
    )
    assert result.exit_code == 0, result.output
    assert "1 questions, 1 captions" in result.stdout
    assert all(word in result.stdout for word in ("exact match", "CIDEr", "memory", "onnx fp32", "onnx int4"))
    assert "They disagree on" in result.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no questions"),
        ("{}", "line 1: has no picture"),
        ("[1]", "line 1: is not a row"),
        ("nonsense", "line 1: is not a row"),
        (
            '{"picture": "a.png", "question": "?", "answers": [{"answer": "yes"}]}',
            "line 1: has an answer that",
        ),
        ("picture,question,answer\na.png,what?,a dog, a cat\n", "line 2: has more cells than the first"),
        (
            "picture,question,answer\n,what?,a dog\nabsent.png,what?,a dog\n",
            "line 2: has no picture; line 3: names",
        ),
        ("picture,question,answer\nabsent.png,what?,a dog\n", "absent.png, which is not a file"),
        ("picture,answer\na.png," + "x" * 140_000, "field larger than field limit"),
    ],
)
def test_a_wrong_file_is_one_line(content: str, said: str, tmp_path: Path) -> None:
    csv.field_size_limit(131_072)  # Python's own; a run in the same process has raised it
    path = tmp_path / ("own.csv" if content.startswith("picture,") else "own.jsonl")
    path.write_text(content, encoding="utf-8")
    result = compare(tmp_path, path)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_set_of_nothing_is_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("questions.jsonl", "")
        archive.writestr("captions.jsonl", "")
    assert "has no questions" in compare(tmp_path, tmp_path / "set.zip").stderr


def test_wrong_arguments_are_one_line(tmp_path: Path, questions: Path) -> None:
    assert "is not available here" in compare(tmp_path, questions, "--with", "onnx-int2").stderr
    assert "cannot be read" in compare(tmp_path, tmp_path / "absent.jsonl").stderr
    result = compare(tmp_path, questions, "--with", "onnx-fp32")
    assert result.exit_code == 1
    assert "has no config.json" in result.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.csv", "picture,question,answer\na.png,what?,a dog\nb.png,,two cats\n"),
        ("own.tsv", "picture\tquestion\tanswer\na.png\twhat?\ta dog\nb.png\t\ttwo cats\n"),
        ("OWN.CSV", "picture;question;answer\na.png; what?;a dog\nb.png;;two cats\n"),
    ],
)
def test_a_csv_file_works_too(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    assert Questions.open(str(tmp_path / name)).items == (
        Item(str(tmp_path / "a.png"), "what?", ("a dog",)),
        Item(str(tmp_path / "b.png"), None, ("two cats",)),
    )


def test_a_line_may_hold_numbers_and_any_line_end_inside_of_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    lines = [
        {"picture": "a.png", "question": "how\u2028many?", "answer": 0},
        {"picture": "a.png", "question": "many?", "answers": [2, "two"]},
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    (tmp_path / "a.png").touch()
    assert [item.question for item in Questions.open(str(path)).items] == ["how many?", "many?"]
    assert [item.expected for item in Questions.open(str(path)).items] == [("0",), ("2", "two")]
