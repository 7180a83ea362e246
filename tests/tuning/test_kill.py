"""Trainings that end at any moment, by a kill or otherwise, and go on: they come to the same weights."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from blip2_chat.tuning import training
from blip2_chat.tuning.recipe import Recipe
from blip2_chat.tuning.tune import Lesson, tune
from tests.support.batch import command, finished
from tests.support.waiting import wait_until

Make = Callable[..., Path]
EPOCHS, BATCH = 4, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for number in range(16):
        colour = ("red", "blue")[number % 2]
        Image.new("RGB", (40 + number, 40), colour).save(folder / f"{number}.png")
        lines.append({"picture": f"{number}.png", "question": "what colour?", "answer": colour})
    (folder / "my.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return folder / "my.jsonl"


def require_same(one: Path, other: Path) -> None:
    """The same files with the same content: the weights to the last bit."""
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    mine, theirs = (load_file(path / "adapter_model.safetensors") for path in (one, other))
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name])
    histories = [json.loads((path / "training.json").read_text("utf-8")) for path in (one, other)]
    assert histories[0] == histories[1]


def test_broken_off_in_every_epoch(
    checkpoint: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_SAVED_EVERY", 0.0)
    recipe = Recipe(epochs=EPOCHS, batch=BATCH, rate=0.01, patience=EPOCHS)
    lesson = Lesson.read(data, None, recipe)
    folder = checkpoint("opt", 11)
    whole, broken = tmp_path / "a" / "adapter", tmp_path / "b" / "adapter"
    tune(lesson, whole, model=folder, recipe=recipe, device="cpu")
    steps = iter([2, 1, 3, 2])  # into what is then the epoch at hand

    def broken_off(after: int) -> Callable[[str, int, int], None]:
        done = 0

        def count(what: str, _done: int, _total: int) -> None:
            nonlocal done
            done += what.startswith("epoch")
            if done == after:
                raise KeyboardInterrupt

        return count

    for after in steps:
        with pytest.raises(KeyboardInterrupt):
            tune(lesson, broken, model=folder, recipe=recipe, device="cpu", on_progress=broken_off(after))
        assert not (broken / "training.json").exists()
    tune(lesson, broken, model=folder, recipe=recipe, device="cpu")
    require_same(whole, broken)


def test_the_draft_of_a_first_save_is_no_obstacle(checkpoint: Make, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    out.mkdir()
    (out / f".{training.STATE}.part").write_bytes(b"half")
    recipe = Recipe(epochs=1, batch=16)
    tune(Lesson.read(data, None, recipe), out, model=checkpoint("opt", 11), recipe=recipe, device="cpu")
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_moments(checkpoint: Make, data: Path, tmp_path: Path) -> None:
    folder = checkpoint("opt", 11)

    def start(out: Path) -> Any:
        arguments = ["--model", folder, "--out", out, "--device", "cpu", "--rate", "0.01"]
        arguments += ["--epochs", str(EPOCHS), "--batch", str(BATCH), "--patience", str(EPOCHS)]
        # After every step and not every minute, so that a kill in the middle of a save is likely.
        often = "import blip2_chat.tuning.training as one; one._SAVED_EVERY = 0.0"
        return command("tune", data, *arguments, before=often)

    whole, killed = tmp_path / "a" / "adapter", tmp_path / "b" / "adapter"
    code, _, told = finished(start(whole))
    assert code == 0, told
    draw = random.Random(3)
    state, in_the_middle = killed / training.STATE, 0
    for _ in range(6):
        before = state.stat().st_mtime_ns if state.exists() else None
        process = start(killed)

        def has_saved(before: int | None = before) -> bool:
            return state.exists() and state.stat().st_mtime_ns != before

        assert wait_until(lambda: has_saved() or process.poll() is not None, 240)  # noqa: B023
        wait_until(lambda: False, draw.uniform(0, 0.05))
        process.kill()
        process.communicate()
        if (killed / "training.json").exists():
            break  # it was over before the kill
        in_the_middle += 1
        for file in killed.glob("*.safetensors"):
            assert load_file(file)  # whole
    assert in_the_middle >= 2
    code, _, told = finished(start(killed))
    assert code == 0, told
    require_same(whole, killed)
