"""Converted folders that somebody else made: nothing of them is used that `convert` would not have written.

Each is loaded in this process: what is refused too late would end it with a signal.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import blip2_chat
from blip2_chat.checkpoint.config import T5Config
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.conversion.cache import is_whole
from blip2_chat.conversion.convert import converted
from blip2_chat.engines.onnx import load_onnx_engine
from blip2_chat.engines.onnx.convert import convert
from blip2_chat.engines.onnx.manifest import MANIFEST
from blip2_chat.errors import CheckpointError

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def made(checkpoint: Make, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp("converted") / family
            convert(inspect(checkpoint(family)), folders[family], "int8")
        return folders[family]

    return make


@pytest.fixture
def folder(made: Callable[[str], Path], tmp_path: Path) -> Path:
    """An OPT model's conversion, to be spoilt."""
    return Path(shutil.copytree(made("opt"), tmp_path / "model"))


def refusal(folder: Path) -> str:
    """The same from the engine and from `load`: one line."""
    with pytest.raises(CheckpointError) as caught:
        load_onnx_engine(folder)
    with pytest.raises(CheckpointError):
        blip2_chat.load(folder)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 500 + len(str(folder))
    return message


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    raw = json.loads((folder / MANIFEST).read_text("utf-8"))
    edited = edit(raw)
    (folder / MANIFEST).write_text(json.dumps(raw if edited is None else edited), "utf-8")


def first_mapped(raw: dict[str, Any]) -> dict[str, Any]:
    mapped: dict[str, Any] = raw["graphs"]["language"][0]
    return mapped


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "objects for embeddings": lambda raw: raw.update(embeddings_dtype="O"),
    "records for embeddings": lambda raw: raw.update(embeddings_dtype="f4,O"),
    "wider embeddings": lambda raw: raw.update(embeddings_dtype="float32"),
    "unhashable embeddings": lambda raw: raw.update(embeddings_dtype=["O"]),
    "objects for a weight": lambda raw: first_mapped(raw).update(dtype="O"),
    "another weight's dtype": lambda raw: first_mapped(raw).update(dtype="uint8"),
    "a weight beyond the file": lambda raw: first_mapped(raw).update(offset=1 << 40),
    "a weight at a negative offset": lambda raw: first_mapped(raw).update(offset=-4096),
    "a weight elsewhere in the file": lambda raw: first_mapped(raw).update(offset=4096),
    "a weight of another shape": lambda raw: first_mapped(raw).update(shape=[1 << 20, 1 << 20]),
    "a weight of no shape": lambda raw: first_mapped(raw).update(shape=None),
    "a weight that is not mapped": lambda raw: first_mapped(raw).update(name="query_tokens"),
    "a weight fewer": lambda raw: raw["graphs"]["language"].pop(),
    "a graph elsewhere": lambda raw: raw["graphs"].update({"../elsewhere/picture": []}),
    "a graph of an absolute name": lambda raw: raw["graphs"].update({"/etc/picture": []}),
    "5,000 graphs": lambda raw: raw["graphs"].update({f"g{n}": [] for n in range(5000)}),
    "a graph fewer": lambda raw: raw["graphs"].pop("picture"),
    "graphs in a list": lambda raw: raw.update(graphs=["picture", "language"]),
    "a file elsewhere": lambda raw: raw["sizes"].update({"../model/config.json": 1}),
    "a file that convert does not write": lambda raw: raw["sizes"].update({"evil.so": 1}),
    "a file not counted": lambda raw: raw["sizes"].pop("embeddings.bin"),
    "a size that is true": lambda raw: raw["sizes"].update({"config.json": True}),
    "a name with an escape sequence": lambda raw: raw["sizes"].update({"\x1b[2Jx": 1}),
    "a long name": lambda raw: raw["sizes"].update({"x" * 100_000: 1}),
    "another precision": lambda raw: raw.update(precision="int4"),
    "no precision": lambda raw: raw.update(precision="fp8"),
    "another family": lambda raw: raw.update(family="t5"),
    "a list for a family": lambda raw: raw.update(family=["opt"]),
    "a huge block": lambda raw: raw.update(block_size=1 << 62),
    "a block of no size": lambda raw: raw.update(block_size=0),
    "a block size that is text": lambda raw: raw.update(block_size="128"),
    "other schemes": lambda raw: raw.update(schemes={"picture": {"kind": "float"}}),
    "schemes of one's own": lambda raw: raw.update(
        schemes={part: {"kind": "blocks", "bits": 3} for part in ("picture", "language", "head")}
    ),
    "a key more": lambda raw: raw.update(load="library.so"),
    "a key fewer": lambda raw: raw.pop("source") and None,
    "a format that is long": lambda raw: raw.update(format="2" * 100_000),
    "no format": lambda raw: raw.pop("format") and None,
    "a list": lambda raw: [raw],
}


@pytest.mark.parametrize("edit", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_convert_does_not_write(folder: Path, edit: Callable[[Any], Any]) -> None:
    change(folder, edit)
    refusal(folder)


@pytest.mark.parametrize("key", ["location", "offset", "length"])
@pytest.mark.parametrize(
    "value", ["../../../etc/passwd", "/etc/passwd", "99999999999", "-1", "picture.onnx.data"]
)
def test_external_data_where_it_does_not_belong(folder: Path, key: str, value: str) -> None:
    spoil_graph(folder, lambda graph: set_external(graph.initializer[-1], key, value))
    assert "language.onnx is not the graph" in refusal(folder)


def set_external(tensor: onnx.TensorProto, key: str, value: str) -> None:
    next(entry for entry in tensor.external_data if entry.key == key).value = value


def spoil_graph(folder: Path, edit: Callable[[onnx.GraphProto], Any]) -> None:
    """Changes the language model's graph, and the manifest with it."""
    path = folder / "language.onnx"
    model = onnx.load(path, load_external_data=False)
    edit(model.graph)
    path.write_bytes(model.SerializeToString())
    change(folder, lambda raw: raw["sizes"].update({"language.onnx": path.stat().st_size}))


def swap_output(graph: onnx.GraphProto) -> None:
    graph.node[-1].op_type, graph.node[-1].domain = "Loop", ""


@pytest.mark.parametrize(
    "edit",
    [
        swap_output,
        lambda graph: graph.node.add(op_type="ReadFile", domain="evil", output=["x"]),
        lambda graph: graph.initializer[0].dims.__setitem__(0, 1 << 40),
        lambda graph: graph.node[0].attribute.add(name="x"),
        lambda graph: graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", 7),
    ],
)
def test_a_graph_that_convert_does_not_write(folder: Path, edit: Callable[[onnx.GraphProto], Any]) -> None:
    spoil_graph(folder, edit)
    assert "language.onnx is not the graph" in refusal(folder)


def test_a_graph_of_another_configuration(folder: Path) -> None:
    """The runtime writes what the graph says into arrays that are as large as the configuration says."""
    path = folder / "config.json"
    raw = json.loads(path.read_text("utf-8"))
    raw["text_config"]["num_attention_heads"] = 2
    path.write_text(json.dumps(raw), "utf-8")
    change(folder, lambda raw: raw["sizes"].update({"config.json": path.stat().st_size}))
    assert "language.onnx is not the graph" in refusal(folder)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "embeddings.bin").rename(tmp_path / "secret")
    (folder / "embeddings.bin").symlink_to(tmp_path / "secret")
    assert "embeddings.bin is a link to a file elsewhere: refused" in refusal(folder)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_the_links_of_the_hubs_cache(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "hub" / "snapshots" / ("0" * 40), tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number))
    load_onnx_engine(snapshot).close()


def test_both_families_load_undamaged(made: Callable[[str], Path]) -> None:
    for family in ("opt", "t5"):
        load_onnx_engine(made(family)).close()


# Conversions that an older version made otherwise


def test_the_old_activation_of_t5_is_converted_again(
    checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a word, in the same place; what the fix did not touch stays."""
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "cache"))
    flan = checkpoint("t5", text={"dense_act_fn": "gelu"})
    opt = checkpoint("opt")
    with monkeypatch.context() as before_the_fix:
        before_the_fix.setattr(T5Config, "activation", property(lambda text: "gelu_new"))
        old = converted(inspect(flan), "int8", name="flan").folder
        kept = converted(inspect(opt), "int8", name="opt").folder
        assert is_whole(old) and is_whole(kept)
    inode = (kept / "language.onnx").stat().st_ino
    assert not is_whole(old)
    with pytest.raises(CheckpointError, match=r"prompt\.onnx is not the graph.*convert the checkpoint again"):
        load_onnx_engine(old)
    assert converted(inspect(flan), "int8", name="flan").folder == old
    assert is_whole(old)
    nodes = onnx.load(old / "prompt.onnx", load_external_data=False).graph.node
    assert {"Gelu"} == {node.op_type for node in nodes} & {"Gelu", "FastGelu"}
    assert converted(inspect(opt), "int8", name="opt").folder == kept
    assert (kept / "language.onnx").stat().st_ino == inode


# Files that are no files


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 34)  # sparse


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        # Its path may have 108 characters.
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.skipif(os.name == "nt", reason="there are no such files")
@pytest.mark.parametrize("make", [fifo, device, huge, listening, Path.mkdir])
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer.json",
        "preprocessor_config.json",
        "processor_config.json",
        "generation_config.json",
    ],
)
def test_small_files_are_regular_and_small(
    checkpoint: Make, tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    official = Path(shutil.copytree(checkpoint("opt"), tmp_path / "official"))
    (official / name).unlink(missing_ok=True)
    make(official / name)
    with pytest.raises(CheckpointError, match=rf"{name} is (not a regular file|larger than)"):
        blip2_chat.load(official)


@pytest.mark.skipif(os.name == "nt", reason="there are no such files")
@pytest.mark.parametrize("make", [fifo, device, huge, listening, Path.mkdir])
@pytest.mark.parametrize("name", ["model.safetensors.index.json", MANIFEST, "model.safetensors"])
def test_indexes_and_weights_too(
    checkpoint: Make, tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    official = Path(shutil.copytree(checkpoint("opt"), tmp_path / "official"))
    (official / "model.safetensors").unlink()
    make(official / name)
    with pytest.raises(CheckpointError):
        blip2_chat.load(official)
