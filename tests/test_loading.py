"""`load` looks at all that is small before anything heavy happens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import blip2_chat
from blip2_chat import CheckpointError
from tests.support.extras import needs


@pytest.fixture
def folder(checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint to be spoilt, whose weights are not to be touched."""
    monkeypatch.setattr("blip2_chat.loading._start", lambda *_: pytest.fail("an engine was started"))
    copy = tmp_path / "official"
    shutil.copytree(checkpoint("opt"), copy)
    return copy


def change(path: Path, **settings: Any) -> None:
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), **settings}), encoding="utf-8"
    )


@pytest.mark.parametrize("engine", ["onnx", pytest.param("torch", marks=needs("test-torch"))])
def test_picture_settings_of_another_model_are_reported(folder: Path, engine: str) -> None:
    change(folder / "processor_config.json", image_processor=None)
    change(folder / "preprocessor_config.json", size={"height": 56, "width": 42})
    with pytest.raises(CheckpointError, match="pictures 42 x 56 pixels large, and its model is for 28 x 28"):
        blip2_chat.load(folder, engine=engine, device="cpu")


def test_a_damaged_tokenizer_is_reported_before_the_conversion(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        blip2_chat.load(folder, engine="onnx")
