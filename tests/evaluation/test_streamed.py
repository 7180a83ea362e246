"""`compare --reference streamed`: fp32's own greedy answers, found by verifying a quantised model's drafts."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app
from blip2_chat.evaluation import streamed
from blip2_chat.evaluation.compare import Questions
from blip2_chat.evaluation.streamed import StreamedComparison, _verified
from tests.support.extras import needs


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    lines = ["picture,question,answer"]
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{seed}.png")
        lines += [f"{seed}.png,how many cats are there?,two", f"{seed}.png,,noise"]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    return tmp_path / "mine.csv"


def compare(folder: Path, questions: Path, *arguments: str) -> Any:
    command = [
        "compare",
        "--model",
        str(folder),
        "--set",
        str(questions),
        "--reference",
        "streamed",
        *arguments,
    ]
    return CliRunner().invoke(app, command)


@needs("test-torch")
@pytest.mark.parametrize("family", ["opt", pytest.param("t5", marks=pytest.mark.slow)])
def test_answers_are_those_that_fp32_writes(
    family: str, checkpoint: Callable[..., Path], questions: Path
) -> None:
    """A random int4 model's drafts are wrong again and again; groups are small."""
    folder = checkpoint(family, 8)
    comparison = StreamedComparison(
        str(folder), Questions.open(str(questions)), ["int4"], most_readings=40, memory=1
    )
    outcome = comparison.run()
    assert outcome.readings > 6
    model = blip2_chat.load(folder, engine="torch", precision="fp32", template=None)
    for row in outcome.rows:
        prompt = "" if row.item.question is None else model.template.render((), row.item.question)
        written = model.write(
            model.open(row.item.picture),
            prompt,
            blip2_chat.Decoding(max_new_tokens=30),
            stop=model.template.stop,
        )
        assert row.answer == "".join(written).strip()
    assert [row.item for row in outcome.rows] == list(Questions.open(str(questions)).items)
    assert 0 < outcome.fidelity["int4"].agreement < 1


@needs("test-torch")
def test_a_bound_of_readings_leaves_verified_beginnings(
    checkpoint: Callable[..., Path], questions: Path
) -> None:
    folder = checkpoint("opt", 8)
    outcome = StreamedComparison(str(folder), Questions.open(str(questions)), ["int4"], most_readings=2).run()
    assert outcome.readings == 2
    model = blip2_chat.load(folder, engine="torch", precision="fp32")
    captions = [row for row in outcome.rows if row.item.question is None]
    for row in captions:
        assert str(model.caption(row.item.picture, max_new_tokens=30)).startswith(row.answer)


def test_verifying_a_draft() -> None:
    assert _verified([5, 6], [5, 6, 1], [1], 9) == ([5, 6], True)
    assert _verified([5, 6], [5, 6, 7], [1], 9) == ([5, 6, 7], False)
    assert _verified([5, 6], [5, 6, 7], [1], 2) == ([5, 6], True)
    assert _verified([5, 6], [5, 8, 7], [1], 9) == ([5, 8], False)
    assert _verified([5, 6], [5, 1, 7], [1], 9) == ([5], True)
    assert _verified([], [1], [1], 9) == ([], True)


def test_the_command(checkpoint: Callable[..., Path], questions: Path, tmp_path: Path) -> None:
    folder = checkpoint("opt", 8)
    result = compare(folder, questions, "--limit", "2")
    assert result.exit_code == 0, result.output
    assert "2 of 2 items" in result.stdout and "onnx int8" in result.stdout and "onnx int4" in result.stdout
    assert "Each reading of fp32's weights goes through" in result.stderr
    result = compare(folder, questions, "--with", "onnx-int8", "--json")
    (line,) = [json.loads(one) for one in result.stdout.splitlines()]
    assert line["precision"] == "int8" and line["pictures"] == 3 and len(line["answers"]) == 6
    # The conversions that it made tell the same in `models`.
    listed = CliRunner().invoke(app, ["models"]).stdout
    assert "int8 follows fp32:" in listed and "int4 follows fp32:" in listed
    converted = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "made")])
    assert "int8 follows fp32:" in converted.stderr
    unchecked = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "other"), "--no-check"])
    assert unchecked.exit_code == 0 and "follows" not in unchecked.stderr
    for arguments, said in (
        ((str(tmp_path / "made"),), "has no float32 weights"),
        ((str(folder), "--with", "torch-int8"), "choose from onnx-int8, onnx-int4"),
        ((str(folder), "--plot", "x.png"), "goes without --plot"),
    ):
        wrong = compare(Path(arguments[0]), questions, *arguments[1:])
        assert wrong.exit_code != 0 and said in wrong.stderr, wrong.output


def test_interrupted_it_tells_what_there_is(
    checkpoint: Callable[..., Path], questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "StreamedComparison", partial(StreamedComparison, memory=1))
    compared = StreamedComparison._compare

    def once(self: StreamedComparison, *arguments: Any) -> None:
        if self.outcome.rows:
            raise KeyboardInterrupt
        compared(self, *arguments)

    monkeypatch.setattr(StreamedComparison, "_compare", once)
    result = compare(checkpoint("opt", 8), questions, "--with", "onnx-int8")
    assert result.exit_code == 130
    assert "1 of 6 items" in result.stdout
