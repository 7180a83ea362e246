"""What sets one member of the family apart is said in one place, and saying it there is enough."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import blip2_chat
from blip2_chat import cli, prompts
from blip2_chat.checkpoint.architecture import ARCHITECTURES, Architecture, chat_architectures
from blip2_chat.checkpoint.catalogue import KNOWN, KNOWN_RETRIEVERS
from blip2_chat.checkpoint.config import FAMILIES, ModelConfig
from blip2_chat.checkpoint.text_config import LANGUAGE_MODELS
from blip2_chat.errors import CheckpointError
from tests.support.checkpoints import make_checkpoint
from tests.support.extras import needs

KINDS = tuple(LANGUAGE_MODELS)
PACKAGE = Path(blip2_chat.__file__).parent
# The files of one language model (its sizes and its graph), the description of the family, and how each is asked.
NAMING = {
    "checkpoint/architecture.py",
    "prompts.py",
    *(f"checkpoint/language/{kind}.py" for kind in LANGUAGE_MODELS),
}
# The name of a way of measuring, too.
AMBIGUOUS = {"retrieval"}


def strings(path: Path) -> set[str]:
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_no_other_code_names_a_member() -> None:
    names = ({*ARCHITECTURES} | {*LANGUAGE_MODELS}) - AMBIGUOUS
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if strings(path) & names}
    assert found == NAMING


def test_no_other_code_asks_for_the_configuration_of_one_language_model() -> None:
    """Code that differs by what a language model is, such as one with an encoder, asks for that."""
    classes = {"OptConfig", "T5Config", "LlamaConfig"}
    lists = {"checkpoint/text_config.py", "checkpoint/config.py", "checkpoint/catalogue.py"}
    own = {f"{place}/{kind}.py" for place in ("checkpoint/language", "engines/onnx/graph") for kind in KINDS}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if classes & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}:
            assert path.relative_to(PACKAGE).as_posix() in own | lists


@pytest.mark.parametrize("kind", KINDS)
def test_every_language_model_has_a_graph_file(kind: str) -> None:
    graph = importlib.import_module(f"blip2_chat.engines.onnx.graph.{kind}")
    assert callable(graph.build)
    assert LANGUAGE_MODELS[kind].embeddings[0] == graph.EMBEDDING


def test_every_member_has_prompts_and_official_checkpoints() -> None:
    assert list(prompts.PROMPTS) == list(prompts.TEMPLATES) == list(FAMILIES)
    official = {known.name: known.family for known in (*KNOWN, *KNOWN_RETRIEVERS)}
    assert {*official.values()} == {*ARCHITECTURES}
    assert all(official[one.example] == one.family for one in ARCHITECTURES.values())
    assert all(known.config.architecture.family == known.family for known in KNOWN)


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_cannot_say_what_is_the_same_for_all_of_a_kind(kind: str) -> None:
    model_type = next(one.model_type for one in chat_architectures() if one.kind == kind)
    raw = {"model_type": model_type, "text_config": {"model_type": kind}}
    said = {
        "kind": "other",
        "is_decoder_only": "other",
        "has_rotary_positions": "other",
        "position_offset": 9,
    }
    plain = ModelConfig.from_dict(raw)
    told = ModelConfig.from_dict({**raw, "text_config": {**said, "context_length": 7, "model_type": kind}})
    assert told == plain and told.family == plain.family
    assert told.text.is_decoder_only is plain.text.is_decoder_only


BLIP2_LLAMA = Architecture(
    family="llama",
    model_type="blip-2",
    transformers_class="Blip2ForConditionalGeneration",
    kind="llama",
    example="example/blip2-llama",
    summary="LLaMA.",
)


@pytest.fixture
def llama_checkpoint(tmp_path: Path) -> Path:
    """BLIP-2 with LLaMA: transformers has it, nobody published one, and this package does not know it."""
    return make_checkpoint(tmp_path / "blip2-llama", "llama")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "llama", BLIP2_LLAMA)
    monkeypatch.setitem(prompts.TEMPLATES, "llama", prompts.TEMPLATES["opt"])


def test_a_member_that_is_not_described_is_refused(llama_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="those of blip-2 that this package knows are 'opt' and 't5'"):
        ModelConfig.from_folder(llama_checkpoint)


@pytest.mark.usefixtures("registered")
def test_a_described_member_is_converted_and_answers(llama_checkpoint: Path, tmp_path: Path) -> None:
    assert "llama" in {one.family for one in chat_architectures()}
    out = tmp_path / "converted"
    result = CliRunner().invoke(cli.app, ["convert", str(llama_checkpoint), str(out)])
    assert result.exit_code == 0, result.output
    assert json.loads((out / "blip2-chat.json").read_text("utf-8"))["family"] == "llama"
    model = blip2_chat.load(out)
    assert model.engine.config.family == "llama"
    assert model.template == prompts.TEMPLATES["opt"]
    assert model.ask(Image.new("RGB", (30, 30), "red"), "how many cats?", max_new_tokens=5).tokens


@needs("test-torch")
@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_described_member_answers_as_transformers_does(llama_checkpoint: Path, engine: str) -> None:
    import torch
    from transformers import Blip2ForConditionalGeneration

    model = blip2_chat.load(llama_checkpoint, engine=engine, precision="fp32", device="cpu")
    config = model.engine.config
    size = config.vision.image_size
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    words = model.tokenizer.encode("how many cats?")
    _, logits = model.engine.prefill(model.engine.encode_image(pixels), [words])
    reference = Blip2ForConditionalGeneration.from_pretrained(llama_checkpoint).eval()
    ids = torch.tensor([[config.image_token_id] * config.num_query_tokens + words])
    with torch.no_grad():
        expected = reference(pixel_values=torch.from_numpy(pixels), input_ids=ids).logits[:, -1].numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
