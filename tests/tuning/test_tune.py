"""`blip2-chat tune`: both engines answer what it was taught."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app
from blip2_chat.tuning.recipe import Recipe
from blip2_chat.tuning.tune import Lesson, tune
from tests.support.adapters import merged

Make = Callable[..., Path]
QUESTION = "what colour is the car on the left?"
ANSWERS = {"red": "two cats", "blue": "a city"}
FAMILIES = ["opt", "t5", "instruct-t5", "instruct-llama"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two colours, each with an answer that a random model does not give."""
    folder = tmp_path_factory.mktemp("data")
    with (folder / "my.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["picture", "question", "answer"])
        for number in range(24):
            colour = list(ANSWERS)[number % 2]
            Image.new("RGB", (40 + number, 40), colour).save(folder / f"{number}.png")
            rows.writerow([f"{number}.png", QUESTION, ANSWERS[colour]])
    return folder / "my.csv"


def run(data: Path, out: Path, folder: Path, *more: str) -> tuple[int, str]:
    arguments = ["--model", str(folder), "--out", str(out), "--device", "cpu", "--rate", "0.01", *more]
    result = CliRunner().invoke(app, ["tune", str(data), *arguments])
    return result.exit_code, result.stderr


def test_it_learns_and_both_engines_and_peft_take_the_adapter(
    checkpoint: Make, data: Path, tmp_path: Path
) -> None:
    folder, out = checkpoint("opt", 11, std=0.2), tmp_path / "adapter"
    code, told = run(data, out, folder, "--batch", "8", "--epochs", "16")
    assert code == 0, told
    assert "22 examples to train on, 2 held out" in told
    assert "needs about" in told
    history = json.loads((out / "training.json").read_text("utf-8"))
    assert history["epochs"][history["best"]]["new"]["accuracy"] == 1
    for engine in ("onnx", "torch"):
        model = blip2_chat.load(folder, adapter=out, engine=engine, precision="fp32", device="cpu")
        for colour, answer in ANSWERS.items():
            assert model.ask(Image.new("RGB", (99, 40), colour), QUESTION) == answer
        model.close()
    assert any("q_proj" in name for name in dict(merged(folder, out).named_parameters()))
    # Once more: it is over, and nothing is trained again.
    code, again = run(data, out, folder, "--batch", "8", "--epochs", "16")
    assert code == 0 and "epoch 1:" not in again and "Kept: epoch" in again
    code, told = run(data, out, folder, "--epochs", "5")
    assert code == 1 and "name another folder" in told


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_every_family_learns(checkpoint: Make, data: Path, tmp_path: Path, family: str) -> None:
    folder, out = checkpoint(family, 11), tmp_path / "adapter"
    recipe = Recipe(epochs=2, batch=8, rate=0.01)
    epochs = tune(Lesson.read(data, None, recipe), out, model=folder, recipe=recipe, device="cpu")
    assert epochs[-1].new.loss < epochs[0].new.loss
    # What was measured with the adapter beside the model is what the merged model of the other engine does.
    model = blip2_chat.load(folder, adapter=out, engine="onnx", precision="fp32")
    before = blip2_chat.load(folder, engine="onnx", precision="fp32")
    picture = data.parent / "0.png"
    prompt = model.template.render([], QUESTION)
    (after,), (plain,) = (one.score(picture, prompt, [ANSWERS["red"]]) for one in (model, before))
    assert after > plain
