"""What can be taught: rows of files and folders. Bad ones are told together, before anything heavy happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from blip2_chat import Blip2ChatError
from blip2_chat.cli import app
from blip2_chat.tuning.examples import Example, read_examples, split
from tests.support.extras import needs


def picture(path: Path) -> str:
    Image.new("RGB", (20, 20), "red").save(path)
    return path.name


def test_bad_rows_are_told_together(tmp_path: Path) -> None:
    name = picture(tmp_path / "0.png")
    (tmp_path / "note.png").write_text("no picture")
    lines = [
        {"picture": name, "question": "what?", "answer": "a dog"},
        {"picture": name, "question": "what?", "answer": " "},
        {"picture": "absent.png", "answer": "a dog"},
        {"picture": "note.png", "answer": "a dog"},
        {"answer": "a dog"},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join([*map(json.dumps, lines), "{"]), "utf-8")
    with pytest.raises(Blip2ChatError) as caught:
        read_examples(path)
    told = str(caught.value)
    assert "line 1:" not in told
    for expected in ("line 2: has no answer", "line 3: ", "line 4: ", "line 5: has no picture"):
        assert expected in told
    assert "and 1 more" in told or "line 6: " in told


@needs("test-torch")
def test_bad_rows_end_the_command_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("picture,question,answer\nabsent.png,what?,a dog\n", "utf-8")
    done = CliRunner().invoke(app, ["tune", str(tmp_path / "my.csv"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    assert "line 2" in done.stderr and "absent.png" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("separator", "suffix"), [(",", "csv"), (";", "csv"), ("\t", "tsv")])
def test_tables_and_captions(tmp_path: Path, separator: str, suffix: str) -> None:
    picture(tmp_path / "0.png")
    rows = [("picture", "question", "answer"), ("0.png", "what?", "a dog"), ("0.png", "", "a red dog")]
    path = tmp_path / f"my.{suffix}"
    path.write_text("\n".join(separator.join(row) for row in rows), "utf-8")
    where = str(tmp_path / "0.png")
    assert read_examples(path) == [
        Example(where, "what?", "a dog", "line 2"),
        Example(where, None, "a red dog", "line 3"),
    ]


def test_of_several_answers_the_most_frequent_is_taught(tmp_path: Path) -> None:
    name = picture(tmp_path / "0.png")
    row = {"picture": name, "question": "what?", "answers": ["a cat", "a dog", "a dog"]}
    (tmp_path / "my.jsonl").write_text(json.dumps(row), "utf-8")
    assert [one.answer for one in read_examples(tmp_path / "my.jsonl")] == ["a dog"]


def test_bad_files_of_a_folder_are_told_together(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text(" ")
    (tmp_path / "1.png").write_text("no picture")
    (tmp_path / "1.txt").write_text("a dog")
    with pytest.raises(Blip2ChatError, match=r"0\.png: has no answer; 1\.png: "):
        read_examples(tmp_path)


def test_a_folder_as_trainers_have_it(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"picture {number}\n")
    picture(tmp_path / "4.png")  # without a text
    examples = read_examples(tmp_path)
    assert [(Path(one.picture).name, one.question, one.answer) for one in examples] == [
        (f"{number}.png", None, f"picture {number}") for number in range(3)
    ]


def test_pictures_are_on_one_side_of_the_split(tmp_path: Path) -> None:
    examples = [Example(f"{number // 2}.png", None, "a dog", "") for number in range(48)]
    found = split(examples, 0.25, 0)
    assert {one.picture for one in found.training}.isdisjoint(one.picture for one in found.held_out)
    assert len(found.training) + len(found.held_out) == 48 and len(found.held_out) == 12


def test_one_picture_cannot_be_split() -> None:
    with pytest.raises(Blip2ChatError, match="at least two"):
        split([Example("0.png", None, "a dog", "")] * 5, 0.1, 0)
