"""Runs a planned graph piece by piece: exact float32 on a machine that could never hold the model.

A graph is cut into pieces of a few layers. Each piece's weights are read from the checkpoint, all samples go through
it, and the weights are forgotten; what later pieces need is kept. So the memory is that of one piece and of the
samples' activations, and the whole costs one reading of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx
import onnxruntime as ort
from onnx import helper

from .graph.builder import IR_VERSION, OPSET, Graph
from .graph.tensors import Array, Tensor, Value

Read = Callable[[Tensor], Array]


@dataclass(frozen=True)
class StoredWeights:
    """The weights of a converted folder, in place of those that are read from a checkpoint. Its operators want them
    constant, so ONNX Runtime maps each piece's from the folder's files."""

    folder: Path
    embeddings: Array | None  # None: the model has none
    references: Mapping[str, Mapping[Value, onnx.TensorProto]]  # by the names of graph and weight

    def __call__(self, tensor: Tensor) -> Array:
        """The token embeddings, the only tensor that is not in a graph."""
        assert self.embeddings is not None
        return self.embeddings


class Watch(Protocol):
    """Receives values of a graph while it runs."""

    @property
    def taps(self) -> Collection[Value]:
        """The names of the values to watch."""

    def __call__(self, sample: int, value: Value, array: Array) -> None:
        """Called with each of these values, for each sample, when it is computed."""

    def piece_done(self) -> None:
        """Called when all samples have gone through a piece, which gives no more values after that."""


# Weights of one piece, in bytes; one layer that is larger is a piece of its own.
PIECE = 256_000_000


@dataclass(frozen=True)
class _Piece:
    """Some of a graph's nodes, the places of the recipes that they use, and the values they give."""

    nodes: range
    recipes: tuple[int, ...]


def run_streamed(
    graph: Graph,
    read: Read | StoredWeights,
    samples: Sequence[dict[Value, Array]],
    watch: Watch | None = None,
    carried: Mapping[Value, Value] | None = None,
    follows: Sequence[bool] | None = None,
    piece: int = PIECE,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> list[dict[Value, Array]]:
    """The outputs of `graph` for each of the samples (its inputs by name): of one planned in float32 with the weights
    that `read` makes, of a converted one with its `StoredWeights`.

    `watch` is given the values that it asks for. A sample that `follows` takes the
    outputs of the one before it as its inputs (`carried`: output -> input): the next step of a sequence.
    `progress` is told of the bytes of weights that were used.
    """
    carried = carried or {}
    taps = set(watch.taps) if watch else set()
    outputs = graph.outputs - set(carried)
    live: list[dict[Value, Array]] = [dict(sample) for sample in samples]
    last_use = {value: at for at, node in enumerate(graph.nodes) for value in node.input if value}
    for part in _pieces(graph, piece):
        weights: dict[Value, Array] = {}
        references: list[onnx.TensorProto] = []
        for place in part.recipes:
            recipe = graph.recipes[place]
            if isinstance(read, StoredWeights):
                references += [read.references[graph.name][stored.name] for stored in recipe.outputs]
                continue
            arrays = recipe.make(read(recipe.tensor))
            weights |= {stored.name: array for stored, array in zip(recipe.outputs, arrays, strict=True)}
        made = {value for at in part.nodes for value in graph.nodes[at].output if value}
        wanted = sorted(
            value
            for value in made
            if value in outputs
            or value in taps
            or value in carried
            or last_use.get(value, -1) >= part.nodes.stop
        )
        folder = read.folder if isinstance(read, StoredWeights) else None
        session = _session(graph, part, weights, references, folder, live[0], wanted)
        needed = [one.name for one in session.get_inputs()]
        handed: dict[Value, Array] = {}
        for number, values in enumerate(live):
            if follows and follows[number]:
                values |= handed
            feeds = {name: weights[name] if name in weights else values[name] for name in needed}
            for name, array in zip(wanted, session.run(wanted, feeds), strict=True):
                values[name] = array
                if watch and name in taps:
                    watch(number, name, array)
            handed = {to: values.pop(name) for name, to in carried.items() if name in made}
            for name in [
                name for name in values if last_use.get(name, -1) < part.nodes.stop and name not in outputs
            ]:
                del values[name]
        if watch:
            watch.piece_done()
        progress(sum(graph.recipes[place].nbytes for place in part.recipes))
    return [{name: values[name] for name in outputs if name in values} for values in live]


def _pieces(graph: Graph, limit: int) -> list[_Piece]:
    home = {stored.name: at for at, recipe in enumerate(graph.recipes) for stored in recipe.outputs}
    pieces, first, recipes, size = [], 0, dict[int, None](), 0
    for at, node in enumerate(graph.nodes):
        new = {home[value]: None for value in node.input if value in home and home[value] not in recipes}
        added = sum(graph.recipes[place].nbytes for place in new)
        if recipes and added and size + added > limit:
            pieces.append(_Piece(range(first, at), tuple(recipes)))
            new = {home[value]: None for value in node.input if value in home}
            first, recipes, size = at, {}, 0
            added = sum(graph.recipes[place].nbytes for place in new)
        recipes |= new
        size += added
    return [*pieces, _Piece(range(first, len(graph.nodes)), tuple(recipes))]


def _session(
    graph: Graph, part: _Piece, weights: dict[Value, Array], references: Sequence[onnx.TensorProto],
    folder: Path | None, known: dict[Value, Array], wanted: list[Value],
) -> ort.InferenceSession:  # fmt: skip
    nodes = [graph.nodes[at] for at in part.nodes]
    used = {value for node in nodes for value in node.input if value}
    made = {value for node in nodes for value in node.output}
    constants = [constant for name, constant in graph.constants.items() if name in used]
    inputs = []
    constant_names = set(graph.constants) | {reference.name for reference in references}
    for name in sorted(used - made - constant_names):
        array = weights[name] if name in weights else known[name]
        shape = array.shape if name in weights else [f"{name}.{axis}" for axis in range(array.ndim)]
        inputs.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)
        )
    # The runtime infers the types of a piece's outputs.
    outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
    proto = helper.make_graph(nodes, graph.name, inputs, outputs, [*constants, *references])
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSET.items()]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSION)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
