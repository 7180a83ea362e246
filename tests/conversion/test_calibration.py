"""int8 and int4 are calibrated with the shipped pictures, with the user's, or not at all; the manifest says which."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.cli import app
from blip2_chat.conversion.calibration import Calibration
from blip2_chat.conversion.convert import convert, converted
from blip2_chat.conversion.fidelity import fidelity_samples
from blip2_chat.engines.onnx.manifest import Manifest
from tests.support.checkpoints import make_checkpoint

SAMPLES = Path(blip2_chat.__file__).parent / "demo" / "samples"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def language(folder: Path) -> bytes:
    return (folder / "language.onnx.data").read_bytes()


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_shipped_pictures_other_pictures_and_none(
    checkpoint: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    source = inspect(checkpoint(family))
    own = tmp_path / "pictures"
    own.mkdir()
    shutil.copyfile(SAMPLES / "birthday.png", own / "birthday.png")
    made = {}
    for name, calibration in (
        ("shipped", Calibration()),
        ("again", Calibration()),
        ("own", Calibration(pictures=own)),
        ("weights", Calibration(is_on=False)),
    ):
        made[name] = convert(source, tmp_path / name, "int4", name="it", calibration=calibration, check=False)
        assert Manifest.from_folder(made[name]).source["calibration"] == calibration.identity
    assert language(made["shipped"]) == language(made["again"]), "not deterministic"
    assert len({language(folder) for folder in made.values()}) == 3


def test_what_was_made_without_is_made_again(checkpoint: Callable[..., Path]) -> None:
    source = inspect(checkpoint())
    before = converted(source, "int4", name="it", calibration=Calibration(is_on=False)).folder
    after = converted(source, "int4", name="it").folder
    assert language(before) != language(after)
    assert Manifest.from_folder(after).source["calibration"] == Calibration().identity


def test_a_context_that_the_samples_exceed_is_one_warning(tmp_path: Path) -> None:
    # Room for the query vectors and a word or two.
    folder = make_checkpoint(tmp_path / "short", "opt", text={"max_position_embeddings": 14})
    with pytest.warns(UserWarning, match="without calibration") as told:
        made = convert(inspect(folder), tmp_path / "made", "int4", name="short")
    assert len(told) == 1
    assert Manifest.from_folder(made).source["calibration"] == "weights"


def test_a_conversion_is_measured_on_pictures_that_it_was_not_calibrated_with(
    checkpoint: Callable[..., Path],
) -> None:
    source = inspect(checkpoint())
    seen = {sample.pixels.tobytes() for sample in Calibration().samples(source)}
    measured = fidelity_samples(source)
    assert seen and measured
    assert not any(np.asarray(sample.pixels).tobytes() in seen for sample in measured)


def test_the_command(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["convert", str(checkpoint()), *map(str, arguments)])
        return result.stderr if result.exit_code else ""

    assert not run(tmp_path / "default")
    assert not run(tmp_path / "weights", "--no-calibrate")
    calibrated = [
        Manifest.from_folder(tmp_path / name).source["calibration"] for name in ("default", "weights")
    ]
    assert calibrated == [Calibration().identity, "weights"]
    assert "--no-calibrate" in run(tmp_path / "both", "--no-calibrate", "--calibrate", SAMPLES)
    assert not (tmp_path / "both").exists()
