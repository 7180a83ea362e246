"""Rewrites a model before it is quantised so that no channel is much larger than the others. The function that
it computes stays the same.

Real language models and ViTs have outlier channels (Dettmers et al. 2022, LLM.int8(), section 4). With one scale
for many channels, integers then leave only a few levels for the others. Three exact identities move the outliers
to where they cost nothing:

- a norm's gain against the columns of the layers that read it: `norm(x) * g / s` and `W * s` (SmoothQuant, Xiao et
  al. 2023, section 4; here on weights alone);
- a norm's bias into the biases of the layers that read it: `W (n + b) + c = W n + (c + W b)`;
- rows of one layer against columns of the next through whatever scales each channel linearly between them: ReLU,
  the open branch of a gate, attention's values (Nagel et al. 2019, Data-Free Quantization, section 4.1).

The scales `s = sqrt(a / w)` make a channel's activations (of size `a`) and the weights that read it (of size `w`)
equally large. Both sizes are measured such that the result depends on the function alone: a checkpoint in which
somebody scaled gains up and columns down becomes the same integers as the one without.

`a` is estimated from the weights before a layer alone. Measured on samples instead, it made the embedded model's
int4 worse (KL from fp32 over held-out answers 0.77e-3 against 0.37e-3, six pictures with six prompts each).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from ...engine import Floats
from .builder import Graph, Linear, Norm
from .tensors import Tensor, Value

Read = Callable[[Tensor], Floats]
# Channels that nothing reads, or that are always zero, keep their size; others are kept from extremes of float32.
_SMALLEST = 1e-12
_LARGEST_SCALE = 1e6


@dataclass
class Rewrite:
    """The rewrite of one recipe's array: (array + `added`) * `rows` + `correction`, columns times `columns`."""

    rows: Floats | None = None
    columns: Floats | None = None
    added: Floats | None = None
    correction: Floats | None = None
    is_zero: bool = False

    def __call__(self, array: Floats) -> Floats:
        if self.is_zero:
            return np.zeros_like(array)
        if self.added is not None:
            array = array + self.added
        if self.columns is not None:
            array = array * self.columns
        if self.rows is not None:
            array = array * self.rows.reshape(-1, *[1] * (array.ndim - 1))
        return array if self.correction is None else array + self.correction


@dataclass
class Rewrites:
    """The rewrites of a graph's recipes, by their place in `Graph.recipes`; and the norms' biases [K] that no longer
    reach the inputs of linear layers, by the place of their weights."""

    of: dict[int, Rewrite] = field(default_factory=dict)
    moved: dict[int, Floats] = field(default_factory=dict)

    def __getitem__(self, recipe: int) -> Rewrite:
        return self.of.setdefault(recipe, Rewrite())

    def apply(self, recipe: int, array: Floats) -> Floats:
        """float32 as it came, rewritten."""
        return self.of[recipe](array) if recipe in self.of else array

    def apply_to_inputs(self, weight: int, inputs: Floats) -> Floats:
        """What the linear layer of the weight at that place gets after the rewrites: [T, K] -> [T, K]."""
        if weight in self.moved:
            inputs = inputs - self.moved[weight]
        columns = self.of[weight].columns if weight in self.of else None
        return inputs if columns is None else inputs / columns


def equalise(graph: Graph, read: Read) -> Rewrites:
    """The rewrites that even out the channels between a graph's quantised layers.

    `read` makes a tensor from the checkpoint; the matrices are read one at a time.
    """
    return _Equaliser(graph, read).run()


class _Equaliser:
    def __init__(self, graph: Graph, read: Read) -> None:
        self._graph = graph
        self._read = read
        self._rewrites = Rewrites()
        self._flow = _Flow(graph)
        # Sizes of the inputs of linear layers, by the index of the layer, known from the norm before it.
        self._input_sizes: dict[int, Floats] = {}

    def run(self) -> Rewrites:
        for norm in self._graph.norms:
            for _, _, readers in self._flow.readers(norm.output, 0, self._width(norm)):
                if any(reader.scheme.kind != "float" for reader in readers):
                    self._balance_norm(norm, readers)
        for linear in self._graph.linears:
            rows = self._tensor(linear.weight).shape[0]
            for start, stop, readers in self._flow.readers(linear.output, 0, rows):
                if any(reader.scheme.kind != "float" for reader in readers):
                    self._balance_rows(linear, start, stop, readers)
        return self._rewrites

    def _tensor(self, recipe: int) -> Tensor:
        return self._graph.recipes[recipe].tensor

    def _width(self, norm: Norm) -> int:
        return self._tensor(norm.gain).shape[0]

    def _balance_norm(self, norm: Norm, readers: list[Linear]) -> None:
        size = np.abs(self._read(self._tensor(norm.gain)))
        bias = None
        if norm.bias is not None:
            bias = self._read(self._tensor(norm.bias))
            if any(reader.bias is None for reader in readers):
                size, bias = np.maximum(size, np.abs(bias)), None
        columns = np.zeros(len(size))
        for reader in readers:
            weight = self._read(self._tensor(reader.weight))
            self._input_sizes[reader.weight] = size
            columns += _column_energy(weight, size) * len(weight)
            if bias is not None and reader.bias is not None:
                self._rewrites[reader.bias].added = _product(weight, bias)
                self._rewrites.moved[reader.weight] = bias
        scale = _scale(size, np.sqrt(columns))
        self._rewrites[norm.gain].rows = np.reciprocal(scale)
        if norm.bias is not None:
            self._rewrites[norm.bias].rows = np.reciprocal(scale)
            self._rewrites[norm.bias].is_zero = bias is not None
        for reader in readers:
            self._rewrites[reader.weight].columns = scale

    def _balance_rows(self, linear: Linear, start: int, stop: int, readers: list[Linear]) -> None:
        size = self._row_sizes(linear, start, stop)
        columns = np.zeros(stop - start)
        for reader in readers:
            matrix = self._read(self._tensor(reader.weight))
            self._input_sizes.setdefault(reader.weight, size.astype(np.float32))
            columns += _column_energy(matrix, size) * len(matrix)
        scale = _scale(size, np.sqrt(columns))
        for recipe in (linear.weight, linear.bias):
            if recipe is not None:
                rows = self._rewrites[recipe].rows
                if rows is None:
                    rows = np.ones(self._tensor(recipe).shape[0], np.float32)
                rows[start:stop] /= scale
                self._rewrites[recipe].rows = rows
        for reader in readers:
            self._rewrites[reader.weight].columns = scale

    def _row_sizes(self, linear: Linear, start: int, stop: int) -> np.ndarray:
        """The sizes of a layer's outputs, for inputs of known sizes."""
        weight = self._read(self._tensor(linear.weight))[start:stop]
        sizes = self._input_sizes.get(linear.weight, np.ones(weight.shape[1], np.float32))
        size = np.sqrt(np.square(weight * sizes).sum(axis=1, dtype=np.float64))
        if linear.bias is not None:
            bias = self._read(self._tensor(linear.bias))
            added = self._rewrites[linear.bias].added
            bias = (bias if added is None else bias + added)[start:stop]
            size = np.sqrt(size**2 + np.square(bias.astype(np.float64)))
        return np.asarray(size)


def _column_energy(weight: Floats, size: Floats) -> np.ndarray:
    """[N, K] -> [K]: the columns' mean squares, each row taken at the size of what it puts out for inputs of
    `size`."""
    energy = np.zeros(weight.shape[1])
    # A few rows at a time: a vocabulary's matrix at once would need several copies of half a gigabyte.
    step = max(1, 2**22 // weight.shape[1])
    for start in range(0, len(weight), step):
        rows = weight[start : start + step]
        output = np.sqrt(
            np.square(rows * size.astype(np.float32)).sum(axis=1, dtype=np.float64, keepdims=True)
        )
        np.maximum(output, _SMALLEST, out=output)
        energy += np.square(rows / output.astype(np.float32)).sum(axis=0, dtype=np.float64)
    return energy / len(weight)


def _product(weight: Floats, vector: Floats) -> Floats:
    """[N, K] times [K], summed in float64."""
    step = max(1, 2**22 // weight.shape[1])
    parts = [weight[at : at + step] @ vector.astype(np.float64) for at in range(0, len(weight), step)]
    return np.concatenate(parts).astype(np.float32)


def _scale(size: np.ndarray, columns: np.ndarray) -> Floats:
    """sqrt(size / columns) per channel, 1 where either is nothing; their geometric mean is 1."""
    usable = (size > _SMALLEST) & (columns > _SMALLEST)
    if not usable.any():
        return np.ones(len(size), np.float32)
    logs = np.zeros(len(size))
    logs[usable] = 0.5 * (np.log(size[usable]) - np.log(columns[usable]))
    logs[usable] -= logs[usable].mean()
    limit = np.log(_LARGEST_SCALE)
    return np.exp(np.clip(logs, -limit, limit)).astype(np.float32)


class _Flow:
    """Which nodes read each value of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._linear_at = {node: linear for linear in graph.linears for node in linear.nodes}
        self._users: dict[Value, list[int]] = {}
        for at, node in enumerate(graph.nodes):
            for value in node.input:
                self._users.setdefault(value, []).append(at)

    def readers(self, value: Value, start: int, stop: int) -> Iterator[tuple[int, int, list[Linear]]]:
        """(first channel, last + 1, the layers that read them and that nothing else reads beside them), for the
        channels `start` to `stop` of what made `value`, as far as each keeps its own way."""
        users = self._users.get(value, [])
        if not users or value in self._graph.outputs:
            return
        linears = {id(self._linear_at[at]): self._linear_at[at] for at in users if at in self._linear_at}
        if all(at in self._linear_at and self._linear_at[at].input == value for at in users):
            yield start, stop, list(linears.values())
        elif len(users) == 1:
            node = self._graph.nodes[users[0]]
            for place, at, to in self._through(node, value, start, stop):
                yield from self.readers(node.output[place], at, to)

    def _through(
        self, node: NodeProto, value: Value, start: int, stop: int
    ) -> Iterator[tuple[int, int, int]]:
        """(which output, first channel, last + 1) of the channels that a node leaves apart and scales linearly."""
        width = stop - start
        if node.op_type == "Split":
            part = width // len(node.output)
            for place in range(len(node.output)):
                yield place, start + place * part, start + (place + 1) * part
        elif node.op_type == "MultiHeadAttention":
            if list(node.input).index(value) == 2:
                yield 0, start, stop
        elif node.op_type == "GroupQueryAttention":
            # Where heads of values are shared, each channel goes to several places.
            heads = {one.name: one.i for one in node.attribute}
            is_shared = heads["num_heads"] != heads["kv_num_heads"]
            if node.input[0] == value and not node.input[1] and not is_shared:
                yield 0, stop - width // 3, stop
        elif node.op_type == "Mul":
            # The second factor, or the first of a constant: one of two layers that are multiplied, not both.
            if node.input[1] == value or node.input[1] in self._graph.constants:
                yield 0, start, stop
        elif node.op_type == "Relu" or (node.op_type == "Reshape" and self._keeps_width(node, width)):
            yield 0, start, stop

    def _keeps_width(self, node: NodeProto, width: int) -> bool:
        shape = self._graph.constants.get(node.input[1])
        return shape is not None and int(np.frombuffer(shape.raw_data, np.int64)[-1]) == width
