"""Conversion: every layout a checkpoint comes in, and every way it can be broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from blip2_chat.checkpoint.config import ModelConfig
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.checkpoint.tensor_names import aliases
from blip2_chat.engines.onnx import load_onnx_engine
from blip2_chat.engines.onnx.convert import convert, plan
from blip2_chat.engines.onnx.graph import builder
from blip2_chat.engines.onnx.manifest import FORMAT, MANIFEST
from blip2_chat.errors import CheckpointError
from tests.support.checkpoints import make_checkpoint
from tests.support.tensor_files import load_tensors, save_tensors

PROMPT = [2, 30, 31, 32]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("official") / "opt", "opt", seed=3)


@pytest.fixture
def broken(official: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in official.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def logits_of(folder: Path) -> np.ndarray:
    engine = load_onnx_engine(folder, threads=1)
    size = engine.config.vision.image_size
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    return engine.prefill(engine.encode_image(pixels), [PROMPT])[1]


def edit(folder: Path, change: Any) -> None:
    tensors = load_tensors(folder / "model.safetensors")
    change(tensors)
    save_tensors(folder / "model.safetensors", tensors)


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_shards_and_one_file_are_the_same(tmp_path: Path, family: str) -> None:
    for name, size in (("one", "5GB"), ("many", "40KB")):
        make_checkpoint(tmp_path / name, family, max_shard_size=size)
        convert(inspect(tmp_path / name), tmp_path / f"{name}-onnx", "fp32")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    np.testing.assert_array_equal(logits_of(tmp_path / "one-onnx"), logits_of(tmp_path / "many-onnx"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_exactly(tmp_path: Path, dtype: str) -> None:
    """As if the weights had been widened before."""
    make_checkpoint(tmp_path / "half", "opt", dtype=dtype)
    wide = make_checkpoint(tmp_path / "wide", "opt", dtype=dtype)
    tensors = load_tensors(wide / "model.safetensors")
    assert {tensor.dtype.name for tensor in tensors.values()} == {dtype}
    wider = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    save_tensors(wide / "model.safetensors", wider)
    for name in ("half", "wide"):
        convert(inspect(tmp_path / name), tmp_path / f"{name}-onnx", "fp32")
    np.testing.assert_array_equal(logits_of(tmp_path / "half-onnx"), logits_of(tmp_path / "wide-onnx"))


def test_tensors_the_chat_does_not_use_are_ignored(official: Path, broken: Path, tmp_path: Path) -> None:
    def add(tensors: dict[str, np.ndarray]) -> None:
        layer = "qformer.encoder.layer.0"
        tensors["qformer.embeddings.word_embeddings.weight"] = np.zeros((60, 24), np.float32)
        tensors["embeddings.position_ids"] = np.arange(5)
        tensors[f"{layer}.intermediate.dense.weight"] = np.zeros((48, 24), np.float32)
        tensors[f"{layer}.output.LayerNorm.bias"] = np.zeros(24, np.float32)

    edit(broken, add)
    convert(inspect(broken), tmp_path / "with", "fp32")
    convert(inspect(official), tmp_path / "without", "fp32")
    np.testing.assert_array_equal(logits_of(tmp_path / "with"), logits_of(tmp_path / "without"))


def test_a_head_stored_twice_is_the_same(official: Path, broken: Path, tmp_path: Path) -> None:
    embedding = "language_model.model.decoder.embed_tokens.weight"
    edit(broken, lambda tensors: tensors.update({"language_model.lm_head.weight": tensors[embedding]}))
    convert(inspect(broken), tmp_path / "twice", "fp32")
    convert(inspect(official), tmp_path / "once", "fp32")
    np.testing.assert_array_equal(logits_of(tmp_path / "twice"), logits_of(tmp_path / "once"))


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_embeddings_under_any_of_their_names(tmp_path: Path, family: str) -> None:
    """safetensors keeps a tensor of several names once; which name survives depends on who wrote the file."""
    source = make_checkpoint(tmp_path / "c", family)
    first, *others = aliases(ModelConfig.from_folder(source))
    convert(inspect(source), tmp_path / "m", "fp32")
    for number, name in enumerate(others):
        edit(source, lambda tensors, name=name: tensors.update({name: tensors.pop(first)}))
        convert(inspect(source), tmp_path / f"m{number}", "fp32")
        np.testing.assert_array_equal(logits_of(tmp_path / f"m{number}"), logits_of(tmp_path / "m"))
        edit(source, lambda tensors, name=name: tensors.update({first: tensors.pop(name)}))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("family", ["opt", "t5"])
def test_a_head_in_pieces_is_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, precision: Any
) -> None:
    source = inspect(make_checkpoint(tmp_path / "c", family))
    convert(source, tmp_path / "whole", precision)
    whole = logits_of(tmp_path / "whole")
    text = source.config.text
    monkeypatch.setattr(builder, "_PIECE", text.vocab_size * text.hidden_size // 3)
    convert(source, tmp_path / "pieces", precision)
    heads = [
        [node for node in onnx.load(tmp_path / name / "language.onnx").graph.node if "logits" in node.output]
        for name in ("whole", "pieces")
    ]
    assert [head.op_type for (head,) in heads] == [
        "MatMul" if precision == "fp32" else "MatMulNBits",
        "Concat",
    ]
    assert len(heads[1][0].input) in (3, 4)
    np.testing.assert_allclose(logits_of(tmp_path / "pieces"), whole, rtol=0, atol=1e-5)


def test_the_folder_says_what_it_is(official: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    source = {"name": "Salesforce/blip2-opt-2.7b", "revision": "abc", "sha256": {"model.safetensors": "00"}}
    target = tmp_path / "deep" / "m"
    convert(
        inspect(official),
        target,
        "int4",
        block_size=16,
        provenance=lambda: source,
        progress=lambda *step: seen.append(step),
    )
    manifest = json.loads((target / MANIFEST).read_text())
    assert manifest["source"] == source
    assert (manifest["format"], manifest["precision"], manifest["block_size"]) == (FORMAT, "int4", 16)
    assert (target / "config.json").read_bytes() == (official / "config.json").read_bytes()
    assert {"tokenizer.json", "processor_config.json", "preprocessor_config.json"} <= manifest["sizes"].keys()
    done = [step[1] for step in seen]
    assert done == sorted(done) and done[-1] == seen[-1][2]
    assert abs(plan(ModelConfig.from_folder(official), "int4", 16).nbytes - done[-1]) == 0
    assert load_onnx_engine(target).precision == "int4"


def test_not_a_number_is_named(broken: Path, tmp_path: Path) -> None:
    name = "language_projection.bias"
    edit(broken, lambda tensors: tensors.update({name: np.full_like(tensors[name], np.nan)}))
    with pytest.raises(CheckpointError, match=r"language_projection\.bias holds values that are not numbers"):
        convert(inspect(broken), tmp_path / "to" / "m", "fp32")
    assert not (tmp_path / "to" / "m" / MANIFEST).exists(), "half-made, and passes for whole"


def test_an_existing_target_is_kept(official: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_text("kept")
    with pytest.raises(CheckpointError, match="not empty"):
        convert(inspect(official), tmp_path / "m", "fp32")
    assert (tmp_path / "m" / "mine").read_text() == "kept"


def test_an_interrupted_conversion_has_no_manifest(official: Path, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(inspect(official), tmp_path / "m", "fp32", progress=stop)
    assert not (tmp_path / "m" / MANIFEST).exists()
    with pytest.raises(CheckpointError):
        load_onnx_engine(tmp_path / "m")


@pytest.mark.parametrize("file", ["picture.onnx.data", "embeddings.bin", "language.onnx"])
def test_a_converted_folder_cut_short_is_refused(official: Path, tmp_path: Path, file: str) -> None:
    convert(inspect(official), tmp_path / "m", "int8")
    path = tmp_path / "m" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{file} is missing or not"):
        load_onnx_engine(tmp_path / "m")


@pytest.mark.parametrize("file", ["picture.onnx", "language.onnx"])
def test_a_graph_of_zeros_is_refused(official: Path, tmp_path: Path, file: str) -> None:
    # What a power failure leaves: the right size and nothing in it.
    convert(inspect(official), tmp_path / "m", "int8")
    path = tmp_path / "m" / file
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(CheckpointError, match=r"cannot be loaded: .*convert the checkpoint again"):
        load_onnx_engine(tmp_path / "m")


def test_folders_that_are_not_converted_are_refused(official: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a converted model"):
        load_onnx_engine(official)
    convert(inspect(official), tmp_path / "m", "fp32")
    manifest = json.loads((tmp_path / "m" / MANIFEST).read_text())
    (tmp_path / "m" / MANIFEST).write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="another version"):
        load_onnx_engine(tmp_path / "m")


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    """The peak is that of a few tensors, not of the model (this one is 50 times its largest tensor)."""
    make_checkpoint(
        tmp_path / "c",
        "opt",
        text={"hidden_size": 512, "word_embed_proj_dim": 512, "ffn_dim": 1024, "num_hidden_layers": 24},
    )
    size = (tmp_path / "c" / "model.safetensors").stat().st_size
    # Not by `getrusage`, which begins with what the parent held: after other tests more than any conversion.
    code = (
        "import sys; from pathlib import Path; from blip2_chat.engines.onnx.convert import convert;"
        "from blip2_chat.checkpoint.inspect import inspect; from blip2_chat.system.memory import peak_memory;"
        "before = peak_memory();"
        "convert(inspect(sys.argv[1]), Path(sys.argv[2]), 'int4');"
        "print(peak_memory() - before)"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "c"), str(tmp_path / "m")]
    grown = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert size > 180e6
    assert grown < size / 3, f"{grown / 1e6:.0f} MB for a checkpoint of {size / 1e6:.0f} MB"


def test_conversion_does_not_import_torch(official: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from blip2_chat.engines.onnx import load_onnx_engine;"
        "assert 'onnx' not in sys.modules, 'the runtime needs the onnx package only to convert';"
        "from blip2_chat.engines.onnx.convert import convert; from blip2_chat.checkpoint.inspect import inspect;"
        "convert(inspect(sys.argv[1]), Path(sys.argv[2]), 'int8'); load_onnx_engine(Path(sys.argv[2]));"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(official), str(tmp_path / "m")], check=True)
