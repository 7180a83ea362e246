"""Fixtures of the tests of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import blip2_chat
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.engines.onnx.convert import convert
from blip2_chat.model import Model
from tests.support.extras import missing

if not missing("test-web"):
    import openai

    from blip2_chat.web.scheduler import Scheduler
    from tests.support.openai_chat import connected
    from tests.support.web_server import MakeModel, Running, running


@pytest.fixture(scope="session")
def make_model(
    checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeModel]:
    """`make_model(family)` -> a small random model of its own, on the ONNX Runtime engine in fp32."""
    converted: dict[str, Path] = {}
    models: list[Model] = []

    def make(family: str = "opt") -> Model:
        if family not in converted:
            folder = tmp_path_factory.mktemp("served") / family
            # Query vectors large enough that pictures change the answers.
            convert(inspect(checkpoint(family, 11, std=0.2)), folder, "fp32")
            converted[family] = folder
        models.append(blip2_chat.load(converted[family], threads=1))
        return models[-1]

    yield make
    for model in models:
        model.close()


@pytest.fixture(scope="session")
def server(make_model: MakeModel) -> Iterator[Running]:
    """A server with the default settings, for tests that leave it as it is."""
    with running(make_model()) as one:
        yield one


@pytest.fixture(scope="module")
def several(make_model: MakeModel) -> Iterator[Running]:
    """The embedded model at two precisions, and a random T5."""
    fp32, int8 = (blip2_chat.load("demo", precision=precision, threads=1) for precision in ("fp32", "int8"))
    with running(fp32, also=[int8, make_model("t5")]) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    """OpenAI's client, connected to `server`."""
    with connected(server) as made:
        yield made


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    """A small random model of the test's own."""
    return make_model()


@pytest.fixture
def scheduler(model: Model) -> Iterator[Scheduler]:
    """Over `model`, with four slots."""
    made = Scheduler(model, slots=4)
    yield made
    made.close()
