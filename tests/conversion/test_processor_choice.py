"""int8 is stored as this machine's processor multiplies it fastest, and either form works everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.conversion.convert import converted
from blip2_chat.engines.onnx.graph.builder import Scheme
from blip2_chat.engines.onnx.run.session import load_onnx_engine
from blip2_chat.engines.onnx.verify import verified_plan, verify


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_a_conversion_of_either_machine_answers_on_the_other(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    source = inspect(checkpoint(family))

    def on_a_machine(without_vnni: bool) -> None:
        monkeypatch.setattr("blip2_chat.engines.onnx.convert.lacks_vnni", lambda: without_vnni)

    folders = {}
    for without_vnni in (False, True):
        on_a_machine(without_vnni)
        folders[without_vnni] = converted(source, "int8", name="it").folder
    assert folders[False] != folders[True]
    answers = {}
    for made_without, folder in folders.items():
        on_a_machine(not made_without)
        verify(folder)
        kinds = {
            linear.scheme.kind
            for graph in verified_plan(folder)[1].graphs
            if graph.name == "language"
            for linear in graph.linears
            if linear.scheme != Scheme("blocks", 8, 128) or not made_without
        }
        assert kinds == {"columns" if made_without else "blocks"}
        engine = load_onnx_engine(folder)
        pixels = np.random.default_rng(0).standard_normal((1, 3, 28, 28)).astype(np.float32)
        answers[made_without] = engine.prefill(engine.encode_image(pixels), [[2, 8, 6, 12]])[1]
        engine.close()
    exact = answers[False]
    error = np.sqrt(((answers[True] - exact) ** 2).mean() / (exact**2).mean())
    assert error < 0.1


def test_int4_and_a_block_size_are_blocks_everywhere(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = inspect(checkpoint())
    monkeypatch.setattr("blip2_chat.engines.onnx.convert.lacks_vnni", lambda: True)
    for folder in (
        converted(source, "int4", name="it"),
        converted(source, "int8", name="it", block_size=32),
    ):
        assert folder.manifest.schemes is None
