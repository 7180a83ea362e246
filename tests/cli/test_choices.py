"""`--choices` of `ask` and `run`: the most probable of given answers, as the library ranks them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app
from tests.support.batch import make_pictures, rows_of

QUESTION = "is there a cat?"
CHOICES = ["yes", "no", "a bit of one"]


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint("opt", 3, std=0.3)


def run(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    return done.exit_code, done.stdout, done.stderr


def test_ask(folder: Path, tmp_path: Path) -> None:
    (photo,) = make_pictures(tmp_path, 1)
    ranked = blip2_chat.load(folder, threads=1).choose(photo, QUESTION, CHOICES)
    asked = ("ask", photo, QUESTION, "--choices", ", ".join(CHOICES), "--model", folder)
    assert run(*asked)[:2] == (0, f"{ranked[0][0]}\n")
    told = json.loads(run(*asked, "--json")[1])
    assert told["answer"] == ranked[0][0]
    assert [(one["answer"], one["probability"]) for one in told["choices"]] == [
        (answer, pytest.approx(share, abs=1e-5)) for answer, share in ranked
    ]


def test_run(folder: Path, tmp_path: Path) -> None:
    """Side by side in batches, each picture gets what it gets alone."""
    photos = make_pictures(tmp_path / "photos", 7)
    out = tmp_path / "out.jsonl"
    options = ("--ask", QUESTION, "--ask", "why?", "--choices", ",".join(CHOICES), "--model", folder)
    code, _, told = run("run", tmp_path / "photos", "--out", out, "--batch-size", "3", *options)
    assert code == 0, told
    model = blip2_chat.load(folder, threads=1)
    expected = [
        {question: model.choose(photo, question, CHOICES)[0][0] for question in (QUESTION, "why?")}
        for photo in photos
    ]
    assert [row["answers"] for row in rows_of(out)] == expected
    code, _, told = run("run", tmp_path / "photos", "--out", out, "--ask", QUESTION, "--choices", "a,b")
    assert code == 1 and "choices was" in told, "another run's answers are not taken for this one's"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("ask", "x.png", "why?", "--choices", "yes,no", "--beams", "2"), "leave out --beams"),
        (("ask", "x.png", "why?", "--choices", "yes,,no"), "an empty one"),
        (("ask", "x.png", "why?", "--choices", "yes,yes"), "given twice"),
        (("run", "photos", "--choices", "yes,no"), "there is no question: ask one"),
    ],
)
def test_choices_that_cannot_be(options: tuple[str, ...], told: str) -> None:
    code, printed, error = run(*options)
    assert code != 0 and printed == ""
    assert told in " ".join(error.split())
