"""Turns an official checkpoint into a folder that `OnnxEngine` loads, one tensor in memory at a time.

    convert(inspect("blip2-opt-2.7b"), Path("blip2-opt-2.7b-int8"), "int8")

The graphs are planned first (`plan`), which says how large the result is; then every weight is read, quantised,
appended to its graph's data file and forgotten. The folder appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import onnx

from ...checkpoint import Checkpoint
from ...config import ModelConfig, OptConfig, T5Config
from ...errors import CheckpointError
from . import opt, qformer, t5, vision
from .activations import UnknownActivation
from .builder import FLOAT, Graph, Scheme, Stored, Tensor, stored
from .manifest import FORMAT, MANIFEST, Manifest, MappedTensor
from .weights import Weights

Precision = Literal["fp32", "int8", "int4"]
Progress = Callable[[str, int, int], None]

EMBEDDINGS_FILE = "embeddings.bin"
# Where a memory page starts, so that each tensor can be mapped by itself.
_ALIGNMENT = 4096
# Whatever tokenizer and preprocessor need, under the names the hub uses.
_COPIED = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
)


@dataclass(frozen=True)
class Schemes:
    """How each part of the model is stored; measured in docs and benchmarks, see `schemes`."""

    picture: Scheme
    language: Scheme
    head: Scheme


# Weights per scale. A scale takes 8 bytes in memory (ONNX Runtime packs the sum of its weights beside it): with
# blocks of 128, an eighth of what the 4-bit weights take. With the scales that quantise.py searches, blocks of 256
# are more exact than blocks of 64 with the usual ones: 10.2 % against 10.8 % error on normal weights (9.8 % at 128).
BLOCK_SIZES: dict[Precision, int] = {"fp32": 128, "int8": 128, "int4": 256}


def schemes(precision: Precision, block_size: int) -> Schemes:
    """The encoder sees 257 rows at a time and wants the fastest product of many rows; the language model
    sees one row per word and wants the fewest bytes; its head decides the word and keeps 8 bits."""
    if precision == "fp32":
        return Schemes(Scheme(), Scheme(), Scheme())
    bits = 8 if precision == "int8" else 4
    return Schemes(
        picture=Scheme("columns"),
        language=Scheme("blocks", bits, block_size),
        head=Scheme("blocks", 8, block_size),
    )


@dataclass(frozen=True)
class Plan:
    """Everything a conversion will write."""

    config: ModelConfig
    graphs: tuple[Graph, ...]
    embeddings: Tensor
    embeddings_dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Size of the result on disk, nearly."""
        weights = sum(recipe.nbytes for graph in self.graphs for recipe in graph.recipes)
        return weights + prod(self.embeddings.shape) * self.embeddings_dtype.itemsize


def plan(
    config: ModelConfig,
    precision: Precision,
    block_size: int | None = None,
    *,
    tied_head: bool = True,
    how: Schemes | None = None,
) -> Plan:
    """The graphs for a model of this shape. `tied_head`: the head is the embedding matrix. `how`: other schemes
    than the precision's, for experiments."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision is one of {', '.join(get_args(Precision))}, not {precision!r}")
    block_size = block_size or BLOCK_SIZES[precision]
    if block_size < 16 or block_size & (block_size - 1):
        raise ValueError(f"block_size is a power of two from 16, not {block_size}")
    how = how or schemes(precision, block_size)
    picture = Graph("picture")
    v = config.vision
    pixels = picture.input("pixels", FLOAT, "B", 3, v.image_size, v.image_size)
    try:
        features = vision.encode(picture, pixels, v, how.picture)
        queries = qformer.query(picture, features, config)
        shape = (config.num_query_tokens, config.text.hidden_size)
        picture.output(queries, "query_vectors", FLOAT, "B", *shape)
        graphs, embedding = _language(config.text, how, tied_head)
    except UnknownActivation as error:
        raise CheckpointError(str(error)) from None
    dtype = np.dtype(np.float32 if precision == "fp32" else np.float16)
    table = stored(embedding, config.text.vocab_size, config.text.hidden_size)
    return Plan(config, (picture, *graphs), table, dtype)


def _language(text: OptConfig | T5Config, how: Schemes, tied: bool) -> tuple[tuple[Graph, ...], str]:
    if isinstance(text, OptConfig):
        return (opt.build(text, how.language, how.head, tied),), opt.EMBEDDING
    encoder = t5.build_encoder(text, how.language)
    return (encoder, t5.build_decoder(text, how.language, how.head, tied)), t5.EMBEDDING


def convert(
    checkpoint: Checkpoint,
    target: Path,
    precision: Precision,
    *,
    block_size: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    how: Schemes | None = None,
) -> None:
    """Converts an official checkpoint into the new folder `target`.

    `block_size` (a power of two from 16; None: `BLOCK_SIZES`) is the weights per scale: smaller blocks are more
    exact, and cost memory and time. `provenance` (name, revision, hashes of the source) is recorded as it is;
    `progress(what, done, total)` is called with bytes of the result. Raises `CheckpointError` when a weight cannot be
    read or is no number, and leaves nothing behind. `how`: see `plan`.
    """
    target = Path(target)
    if target.exists():
        raise CheckpointError(f"{target} exists already; remove it or name another folder")
    planned = plan(checkpoint.config, precision, block_size, tied_head=checkpoint.tied_head, how=how)
    block_size = block_size or BLOCK_SIZES[precision]

    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(planned, checkpoint, partial, precision, block_size, provenance, progress or _silent)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _silent(what: str, done: int, total: int) -> None:
    pass


def _write(
    planned: Plan,
    checkpoint: Checkpoint,
    folder: Path,
    precision: Precision,
    block_size: int,
    provenance: Mapping[str, Any] | None,
    progress: Progress,
) -> None:
    done, total = 0, planned.nbytes

    def report(what: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(what, done, total)

    for name in _COPIED:
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, folder / name)
    weights = Weights(checkpoint)
    graphs = {graph.name: _write_graph(graph, weights, folder, report) for graph in planned.graphs}
    table = _make(planned.embeddings, weights).astype(planned.embeddings_dtype)
    table.tofile(folder / EMBEDDINGS_FILE)
    report(EMBEDDINGS_FILE, table.nbytes)

    manifest = Manifest(
        format=FORMAT,
        source=dict(provenance or {"folder": checkpoint.folder.name}),
        precision=precision,
        block_size=block_size,
        family=planned.config.family,
        graphs=graphs,
        embeddings_dtype=planned.embeddings_dtype.name,
        sizes={path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    )
    (folder / MANIFEST).write_text(json.dumps(manifest.to_dict(), indent=2) + "\n", encoding="utf-8")


def _write_graph(
    graph: Graph, weights: Weights, folder: Path, report: Callable[[str, int], None]
) -> tuple[MappedTensor, ...]:
    """`NAME.onnx` and, beside it, `NAME.onnx.data` with the initializers; returns those to be mapped."""
    data = folder / f"{graph.name}.onnx.data"
    protos = []
    mapped = []
    with data.open("wb") as file:
        for recipe in graph.recipes:
            arrays = recipe.make(_make(recipe.tensor, weights))
            for stored, array in zip(recipe.outputs, arrays, strict=True):
                offset = _append(file, array, stored)
                protos.append(stored.external(data.name, offset))
                if stored.mapped:
                    mapped.append(MappedTensor(stored.name, stored.numpy_dtype.name, stored.shape, offset))
            report(recipe.outputs[0].name, recipe.nbytes)
    onnx.save(graph.model(protos), folder / f"{graph.name}.onnx")
    return tuple(mapped)


def _append(file: BinaryIO, array: np.ndarray[Any, Any], planned: Stored) -> int:
    """Writes the array where the next page starts and returns the offset."""
    if array.shape != planned.shape or array.dtype != planned.numpy_dtype:
        raise AssertionError(f"{planned} was planned, {array.dtype} {array.shape} was made")
    offset = file.tell() + -file.tell() % _ALIGNMENT
    file.seek(offset)
    file.write(np.ascontiguousarray(array).data)
    return offset


def _make(tensor: Tensor, weights: Weights) -> np.ndarray[Any, np.dtype[np.float32]]:
    return tensor.make(*(weights.read(name) for name, _ in tensor.sources))
