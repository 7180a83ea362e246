"""Steps through a captured graph: the same tokens as plain steps, and plain steps where a graph cannot be used.

No GPU is needed: `recorded` does what a CUDA graph does, with the kernels of a CPU.
"""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import blip2_chat
from blip2_chat.engines.torch.engine import TorchEngine
from blip2_chat.engines.torch.graphs import Compute, StepGraph
from blip2_chat.engines.torch.state import TorchState
from blip2_chat.errors import CheckpointError
from blip2_chat.model import Model

SAMPLES = Path(blip2_chat.__file__).parent / "demo" / "samples"
QUESTIONS = ("what is on the left?", "and what is right of it?", "what colour is the background?")


class _Recorder(TorchDispatchMode):
    """Every kernel that is run, with the tensors that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[tuple[Any, Any, dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default):
            raise RuntimeError("Python reads a number from the GPU while a graph is captured")
        result = func(*args, **(kwargs or {}))
        self.kernels.append((func, args, kwargs or {}, _tensors(result)))
        return result


def _tensors(result: Any) -> list[Tensor]:
    return [one for one in tree_leaves(result) if isinstance(one, Tensor)]


def recorded(compute: Compute) -> Compute:
    """As a CUDA graph: the same kernels again on the same memory, and no Python. What Python had read or decided
    stays as it was at the capture."""
    compute()
    with _Recorder() as recorder:
        result = compute()

    def replay() -> Tensor:
        for func, args, kwargs, written in recorder.kernels:
            for place, new in zip(written, _tensors(func(*args, **kwargs)), strict=True):
                if place.data_ptr() != new.data_ptr():
                    place.copy_(new)
        return result

    assert len(recorder.kernels) > 20
    return replay


class Counted:
    """`capture`, and how often what it gave was replayed."""

    def __init__(self, capture: Callable[[Compute], Compute] = recorded) -> None:
        self.capture = capture
        self.captured = self.replayed = 0

    def __call__(self, compute: Compute) -> Compute:
        self.captured += 1
        replay = self.capture(compute)

        def counting() -> Tensor:
            self.replayed += 1
            return replay()

        return counting


@pytest.fixture(scope="module")
def plain() -> Model:
    return blip2_chat.load(engine="torch", device="cpu")


def graphed(capture: Callable[[Compute], Compute], **options: Any) -> tuple[Model, StepGraph]:
    model = blip2_chat.load(engine="torch", device="cpu")
    engine = model.engine
    assert isinstance(engine, TorchEngine)
    engine._graph = engine._step_graph(capture=capture, **options)
    return model, engine._graph


def talks(model: Model) -> list[tuple[int, ...]]:
    """The tokens of two conversations that take turns, with a question taken back, beams, and drawn answers."""
    said = []
    one, two = (model.chat(SAMPLES / name) for name in ("dog-and-apple.png", "farm.png"))
    for question in QUESTIONS:
        said += [one.ask(question).tokens, two.ask(question).tokens]
    one.undo()
    said += [one.ask("is there a cat?").tokens, one.caption().tokens]
    said += [two.ask("what is at the bottom?", num_beams=3).tokens, two.ask("is there a cow?").tokens]
    beams = model.generate(SAMPLES / "street.png", num_beams=4, num_answers=2)
    said += [beams.tokens, *(other.tokens for other in beams.others)]
    drawn = model.generate(SAMPLES / "street.png", temperature=2.0, seed=3, num_answers=3)
    return [*said, drawn.tokens, *(other.tokens for other in drawn.others)]


def test_replayed_steps_write_the_same_tokens(plain: Model) -> None:
    capture = Counted()
    model, graph = graphed(capture)
    assert talks(model) == talks(plain)
    assert graph.off == ""
    assert capture.captured == 1 and capture.replayed > 20
    # Once more, when nothing is checked any longer.
    replayed = capture.replayed
    assert talks(model) == talks(plain)
    assert capture.captured == 1 and capture.replayed > replayed + 15


def test_states_keep_their_promises(checkpoint: Callable[..., Path]) -> None:
    engines = [TorchEngine.load(checkpoint("opt", 5), device="cpu") for _ in range(2)]
    engines[1]._graph = engines[1]._step_graph(capture=recorded)
    side = engines[0].config.vision.image_size
    pixels = np.random.default_rng(4).normal(size=(2, 3, side, side)).astype(np.float32)

    def logits(engine: TorchEngine) -> list[Any]:
        vectors = engine.encode_image(pixels)
        # A row that stood behind padding, and one that did not.
        both, _ = engine.prefill(vectors, [[2, 10], [2, 20, 21, 22, 23]])
        given = [engine.step(both, [7, 8])]
        first, second = both.take([0]), both.take([1])
        both.reorder([0])
        assert isinstance(both, TorchState) and not bool(both.mask.all())
        for token in (30, 31, 32):  # three states take turns, and each keeps what it has read
            given += [engine.step(one, [token]) for one in (both, first, second)]
        assert first.nbytes == both.take([0]).nbytes
        copied = first.take([0])
        given += [engine.step(first, [33]), engine.step(copied, [34]), engine.step(first, [35])]
        first.truncate(3)
        given += [engine.step(first, [36])]
        first.append(second.take([0]))
        given += [engine.step(first, [37, 38])]
        first.reorder([1])
        given += [engine.step(first, [39]), engine.step(second, [40])]
        state, again = engine.prefill(vectors[1:], [[2, 20, 21, 22, 45, 46]], second)
        return [*given, again, engine.step(state, [47])]

    for mine, expected in zip(logits(engines[1]), logits(engines[0]), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-5)
    assert engines[1]._graph.off == ""


def test_long_conversations_go_on_with_plain_steps(plain: Model) -> None:
    capture = Counted()
    model, graph = graphed(capture, slots=80)
    settings: dict[str, Any] = {"min_new_tokens": 60, "max_new_tokens": 60}
    picture = SAMPLES / "farm.png"
    expected = plain.generate(picture, **settings).tokens
    assert model.generate(picture, **settings).tokens == expected
    assert 20 < capture.replayed < 60
    assert graph.off == ""


def test_a_graph_that_went_stale_is_found_out(plain: Model, caplog: pytest.LogCaptureFixture) -> None:
    def stale(compute: Compute) -> Compute:
        result = compute().clone()
        return lambda: result  # as when a number was read from Python

    model, graph = graphed(stale)
    with caplog.at_level(logging.WARNING):
        assert talks(model) == talks(plain)
    assert "replayed step is off by" in graph.off
    assert [one.getMessage() for one in caplog.records] == [f"CUDA graphs are not used: {graph.off}"]


def test_a_step_that_cannot_be_captured_runs_without_a_graph(plain: Model) -> None:
    def reads_a_number(compute: Compute) -> Compute:
        return recorded(lambda: compute() * float(compute().max().item()))

    model, graph = graphed(reads_a_number)
    assert talks(model) == talks(plain)
    assert graph.off.startswith("Python reads a number")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_graphs_are_used_only_on_request_and_where_they_can_be(plain: Model) -> None:
    engine = plain.engine
    assert isinstance(engine, TorchEngine) and engine._graph is None
    with pytest.raises(CheckpointError, match="need a model on one CUDA GPU; this one is on cpu"):
        engine.use_graphs()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_graphs_on_a_real_gpu(plain: Model) -> None:
    model = blip2_chat.load(engine="torch", device="cuda", precision="fp32")
    engine = model.engine
    assert isinstance(engine, TorchEngine)
    engine.use_graphs()
    assert talks(model) == talks(plain)
    assert engine._graph is not None and engine._graph.off == ""
