"""Turns an official checkpoint into a folder that `OnnxEngine` loads, one tensor in memory at a time.

    convert(inspect("blip2-opt-2.7b"), Path("blip2-opt-2.7b-int8"), "int8")

The graphs are planned first (`plan`), which says how large the result is; then every weight is read, quantised,
appended to its graph's data file and forgotten. The manifest is written last. `conversion/convert.py` sees to it that
a folder appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...checkpoint.config import ModelConfig
from ...checkpoint.inspect import AnyCheckpoint
from ...checkpoint.retrieval_config import AnyConfig, RetrievalConfig
from ...checkpoint.tensor_names import aliases
from ...checkpoint.weights import Weights
from ...errors import CheckpointError
from ...system.processor import lacks_vnni
from ...system.progress import Progress, silent
from ...system.small_files import COMPANIONS, MANIFEST
from ..engine import Floats
from .graph import qformer, retrieval, vision
from .graph.activations import UnknownActivation
from .graph.builder import Graph, Scheme
from .graph.tensors import FLOAT, Tensor, stored
from .graph_file import GraphFile
from .manifest import EMBEDDINGS_FILE, FORMAT, PRECISIONS, Manifest, Precision
from .reference import LinearInputs, Sample, answer
from .retrieval_reference import encode

# The progress message while samples run through the float32 model.
CALIBRATING = "calibrating"


@dataclass(frozen=True)
class Schemes:
    """How each part of the model is stored. `schemes` gives the reasons; docs/benchmark.md has the
    measurements."""

    picture: Scheme
    language: Scheme
    head: Scheme
    # The picture encoder of a model without a language model, if not the same.
    picture_alone: Scheme | None = None


# Weights per scale. A scale takes 8 bytes in memory (ONNX Runtime packs the sum of its weights beside it): with
# blocks of 128, an eighth of what the 4-bit weights take. With the scales that quantise.py searches, blocks of 256
# are more exact than blocks of 64 with the usual ones: 10.2 % against 10.8 % error on normal weights (9.8 % at 128).
BLOCK_SIZES: dict[Precision, int] = {"fp32": 128, "int8": 128, "int4": 256}


def schemes(precision: Precision, block_size: int) -> Schemes:
    """The picture encoder multiplies 257 rows at a time, so it gets the scheme that is fastest for many rows.
    The language model multiplies one row per token, so it gets the scheme with the fewest bytes; its output
    head, which decides the token, keeps 8 bits."""
    if precision == "fp32":
        return Schemes(Scheme(), Scheme(), Scheme())
    bits = 8 if precision == "int8" else 4
    return Schemes(
        picture=Scheme("columns"),
        language=Scheme("blocks", bits, block_size),
        head=Scheme("blocks", 8, block_size),
        # Then nothing else is left to make smaller. The rows of ViT-g are multiples of 128.
        picture_alone=Scheme("blocks", 4, min(block_size, 128)) if precision == "int4" else None,
    )


def schemes_here(precision: Precision) -> Schemes | None:
    """Other schemes than the precision's, where they are faster on this machine's processor; None: its own.

    Without VNNI, MatMulNBits takes 3 times as long as u8s8 for the rows of a prompt with 8-bit weights, and as long
    for the one row of a word. With outliers removed beforehand (`equalise.py`), u8s8 is as exact.
    """
    if precision != "int8" or not lacks_vnni():
        return None
    usual = schemes(precision, BLOCK_SIZES[precision])
    return replace(usual, language=Scheme("columns"))


@dataclass(frozen=True)
class Plan:
    """Everything a conversion will write."""

    config: AnyConfig
    graphs: tuple[Graph, ...]
    embeddings: Tensor | None  # the language model's; a retrieval model has none
    embeddings_dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Size of the result on disk, nearly."""
        weights = sum(recipe.nbytes for graph in self.graphs for recipe in graph.recipes)
        table = 0 if self.embeddings is None else prod(self.embeddings.shape)
        return weights + table * self.embeddings_dtype.itemsize

    def chat(self) -> tuple[ModelConfig, Tensor]:
        """The configuration and the token embeddings of a chat model's plan."""
        assert isinstance(self.config, ModelConfig) and self.embeddings is not None
        return self.config, self.embeddings


def plan(
    config: AnyConfig,
    precision: Precision,
    block_size: int | None = None,
    *,
    tied_head: bool = True,
    how: Schemes | None = None,
) -> Plan:
    """The graphs for a model of this shape. `tied_head`: the head is the embedding matrix. `how`: other schemes
    than the precision's, for experiments."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    block_size = block_size or BLOCK_SIZES[precision]
    if block_size < 16 or block_size & (block_size - 1):
        raise ValueError(f"block_size is a power of two from 16, not {block_size}")
    how = how or schemes(precision, block_size)
    dtype = np.dtype(np.float32 if precision == "fp32" else np.float16)
    try:
        if isinstance(config, RetrievalConfig):
            scheme = how.picture_alone or how.picture
            return Plan(config, retrieval.build(config, scheme), None, dtype)
        # Its graph file has the name of its kind, as `LanguageModel` says.
        language = import_module(f"{__package__}.graph.{config.language.kind}")
        graphs = (
            *_picture(config, how.picture),
            *language.build(config.text, how.language, how.head, tied_head),
        )
    except UnknownActivation as error:
        raise CheckpointError(str(error)) from None
    table = stored(aliases(config)[0], config.text.vocab_size, config.text.hidden_size)
    return Plan(config, graphs, table, dtype)


def _picture(config: ModelConfig, scheme: Scheme) -> tuple[Graph, ...]:
    """Pixels -> query vectors, in one graph; in two where the Q-Former reads the instruction too: the picture
    encoder, which runs once per picture, and the Q-Former, which runs once per instruction."""
    g, v = Graph("picture"), config.vision
    features = vision.encode(g, g.input("pixels", FLOAT, "B", 3, v.image_size, v.image_size), v, scheme)
    shape = (config.num_query_tokens, config.text.hidden_size)
    if not config.reads_instruction:
        g.output(qformer.query(g, features, config), "query_vectors", FLOAT, "B", *shape)
        return (g,)
    g.output(features, "features", FLOAT, "B", v.num_positions, v.hidden_size)
    query = Graph("query")
    features = query.input("features", FLOAT, "B", v.num_positions, v.hidden_size)
    vectors = qformer.instructed_query(query, features, config)
    query.output(vectors, "query_vectors", FLOAT, "B", *shape)
    return g, query


def convert(
    checkpoint: AnyCheckpoint,
    folder: Path,
    precision: Precision,
    *,
    block_size: int | None = None,
    provenance: Callable[[], Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
    how: Schemes | None = None,
    samples: Sequence[Sample] = (),
) -> None:
    """Fills `folder`, which is new or empty, with the conversion of an official checkpoint.

    `block_size` (a power of two from 16; None: `BLOCK_SIZES`) is the weights per scale: smaller blocks are more
    exact, and cost memory and time. `provenance` gives what is recorded of the source (name, revision, hashes);
    it is called when all else is written. `progress(what, done, total)` is called with bytes of the result.
    `how`: see `plan`. `samples` are run through the float32 model, layer by layer, to choose the integers and to
    correct the mean error of each layer (not used for fp32).

    Raises `CheckpointError` when a weight cannot be read or is no number; what is in the folder then is the caller's
    to remove.
    """
    folder = Path(folder)
    planned = plan(checkpoint.config, precision, block_size, tied_head=checkpoint.tied_head, how=how)
    block_size = block_size or BLOCK_SIZES[precision]
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty; name a new folder", path=folder)

    _write(planned, checkpoint, folder, precision, block_size, how, provenance, progress or silent, samples)


def _write(
    planned: Plan,
    checkpoint: AnyCheckpoint,
    folder: Path,
    precision: Precision,
    block_size: int,
    how: Schemes | None,
    provenance: Callable[[], Mapping[str, Any]] | None,
    progress: Progress,
    samples: Sequence[Sample],
) -> None:
    exact = None
    if samples and precision != "fp32":
        exact = plan(checkpoint.config, "fp32", tied_head=checkpoint.tied_head)
    done, total = 0, planned.nbytes + (exact.nbytes if exact else 0)
    is_calibrating = False

    def report(what: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(CALIBRATING if is_calibrating else what, done, total)

    for name in COMPANIONS:
        if checkpoint.companion(name).is_file():
            shutil.copyfile(checkpoint.companion(name), folder / name)
    weights = Weights(checkpoint)

    def read(tensor: Tensor) -> Floats:
        return tensor.make(*(weights.read(name) for name, _ in tensor.sources))

    with ExitStack() as files:
        made = {
            graph.name: files.enter_context(GraphFile(graph, read, folder, report))
            for graph in planned.graphs
        }
        if exact is not None:
            is_calibrating = True
            unread = exact.nbytes

            def used(nbytes: int) -> None:
                nonlocal unread
                # Pieces may share a weight.
                nbytes = min(nbytes, unread)
                unread -= nbytes
                report(CALIBRATING, nbytes)

            _calibrate(exact, made, read, samples, used)
            used(unread)
            is_calibrating = False
        graphs = {name: file.finish() for name, file in made.items()}
    if planned.embeddings is not None:
        table = read(planned.embeddings).astype(planned.embeddings_dtype)
        table.tofile(folder / EMBEDDINGS_FILE)
        report(EMBEDDINGS_FILE, table.nbytes)

    manifest = Manifest(
        format=FORMAT,
        source=dict(provenance() if provenance else {"folder": checkpoint.folder.name}),
        precision=precision,
        block_size=block_size,
        family=planned.config.family,
        graphs=graphs,
        embeddings_dtype=None if planned.embeddings is None else planned.embeddings_dtype.name,
        sizes={path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        schemes=None if how is None else asdict(how),
    )
    (folder / MANIFEST).write_text(json.dumps(manifest.to_dict(), indent=2) + "\n", encoding="utf-8")


def _calibrate(
    exact: Plan,
    files: Mapping[str, GraphFile],
    read: Callable[[Tensor], Floats],
    samples: Sequence[Sample],
    progress: Callable[[int], None],
) -> None:
    """Runs the samples through the float32 model, layer by layer, and quantises each layer for its inputs."""
    watches = {
        graph.name: LinearInputs(graph, files[graph.name].wanted, files[graph.name].calibrate)
        for graph in exact.graphs
    }
    if exact.embeddings is None:
        picture = exact.graphs[0]
        encode(picture, read, samples, watches[picture.name], progress)
        return
    config, embeddings = exact.chat()
    answer(exact.graphs, embeddings, config, read, samples, watches, progress)
