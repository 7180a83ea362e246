"""int8 and int4 on the embedded model: hardly an answer changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import blip2_chat
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.engines.onnx.convert import convert
from blip2_chat.evaluation.held_out import Evaluation, HeldOut, Report

EMBEDDED = Path(blip2_chat.__file__).parent / "demo"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (EMBEDDED / "config.json").exists(), reason="the embedded model is not here yet"),
]


def evaluated(folder: Path, precision: Any) -> Report:
    convert(inspect(EMBEDDED), folder / precision, precision)
    return Evaluation(blip2_chat.load(folder / precision), HeldOut.open("seen")).run()


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return evaluated(tmp_path_factory.mktemp("exact"), "fp32")


@pytest.mark.parametrize(("precision", "fall"), [("int8", 0.005), ("int4", 0.02)])
def test_quantised_answers_stay_right(tmp_path: Path, exact: Report, precision: str, fall: float) -> None:
    report = evaluated(tmp_path, precision)
    assert exact.asked.total() >= 1000
    assert report.exact_match >= exact.exact_match - fall
    assert report.caption_f1 >= exact.caption_f1 - fall
