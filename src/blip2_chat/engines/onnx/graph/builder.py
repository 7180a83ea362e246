"""Builds ONNX graphs as protobufs, before any weight is read.

Building a graph reads no weight. Each weight is a `Tensor`: the checkpoint tensors it is made of, its shape, and
the function that makes it; stored initializers are the outputs of a `Recipe`. So the whole model is known (what it
needs of the checkpoint, what it takes on disk) before a byte is read, and `convert.py` then makes and writes
one recipe after the other.

Values are names, as in the file format. (onnx-ir and onnxscript.nn have richer ones; here they would only add
sympy to what a user installs.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...engine import Floats
from . import quantise
from .tensors import FLOAT, INT8, UINT8, Array, Recipe, Stored, Tensor, Value, constant

OPSET = {"": 21, "com.microsoft": 1}
IR_VERSION = 10


@dataclass(frozen=True)
class Scheme:
    """How a matrix is stored and multiplied.

    - `float`: float32, MatMul.
    - `columns`: 7-bit integers with one scale per output column, DynamicQuantizeMatMul on activations scaled
      per row. The fastest for more than a few rows; the integers cannot overflow on any x86 processor.
    - `blocks`: `bits`-bit integers with one scale per block of `block_size` inputs, MatMulNBits with activations
      in int8, one scale per block too. The fewest bytes per token, and an outlier channel costs only its own
      block precision.
    """

    kind: Literal["float", "columns", "blocks"] = "float"
    bits: int = 8
    block_size: int = 128


FLOAT32 = Scheme()


@dataclass(frozen=True)
class Norm:
    """A layer or RMS norm in a graph: its output, and where in `Graph.recipes` its gain and bias are."""

    output: Value
    gain: int
    bias: int | None


@dataclass(frozen=True)
class Linear:
    """A linear layer in a graph: input [..., K], output [..., N], where in `Graph.recipes` its weight [N, K] and
    bias [N] are, and which of the graph's nodes compute it."""

    input: Value
    output: Value
    weight: int
    bias: int | None
    scheme: Scheme
    nodes: range


# The most weights of one operator in `Graph.head`; more than any other layer of blip2-opt-2.7b has.
_PIECE = 2**25


class Graph:
    """An ONNX graph under construction. Values go in and come out of its methods as in eager code."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.recipes: list[Recipe] = []
        self.norms: list[Norm] = []
        self.linears: list[Linear] = []
        self.nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: list[TensorProto] = []

    # Values

    def input(self, name: str, dtype: int, *shape: int | str) -> Value:
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, value: Value, name: str, dtype: int, *shape: int | str) -> None:
        """Makes `value` an output of the graph, under `name`."""
        producer = next(node for node in reversed(self.nodes) if value in node.output)
        producer.output[list(producer.output).index(value)] = name
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    @property
    def outputs(self) -> set[Value]:
        """The names of the values that leave the graph."""
        return {output.name for output in self._outputs}

    @property
    def constants(self) -> dict[Value, TensorProto]:
        """The small constants kept inside the graph's file."""
        return {constant.name: constant for constant in self._constants}

    def const(self, array: Sequence[int] | float, dtype: type[np.generic] = np.int64) -> Value:
        """A small constant, kept inside the graph's file."""
        name = f"const.{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def weight(self, tensor: Tensor, mapped: bool = False) -> Value:
        """A float32 initializer; `mapped` as in `Stored`."""
        whole = Stored(self._name(tensor), FLOAT, tensor.shape, mapped)
        return self._recipe(tensor, [whole], lambda array: [array])[0]

    def table(self, tensor: Tensor, indices: Value) -> Value:
        """The rows of a float32 table at `indices`; the others stay on disk."""
        return self.op("Gather", self.weight(tensor, mapped=True), indices, axis=0)

    def op(self, op_type: str, *inputs: Value | None, domain: str = "", **attributes: Any) -> Value:
        """One node with one output."""
        return self.ops(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: Value | None, outputs: int, domain: str = "", **attributes: Any
    ) -> Sequence[Value]:
        """One node with several outputs."""
        name = f"{op_type}.{len(self.nodes)}"
        results = [name if outputs == 1 else f"{name}.{number}" for number in range(outputs)]
        names = [value or "" for value in inputs]
        self.nodes.append(helper.make_node(op_type, names, results, name=name, domain=domain, **attributes))
        return results

    def fused(self, op_type: str, *inputs: Value | None, **attributes: Any) -> Value:
        """One of ONNX Runtime's own operators (its docs/ContribOperators.md)."""
        return self.op(op_type, *inputs, domain="com.microsoft", **attributes)

    # Layers

    def linear(self, x: Value, weight: Tensor, bias: Tensor | None = None, scheme: Scheme = FLOAT32) -> Value:
        """x [..., K] times `weight` [N, K] transposed, plus `bias` [N] -> [..., N]."""
        if (
            bias is None
            and scheme.kind != "float"
            and any(norm.output == x and norm.bias is not None for norm in self.norms)
        ):
            # `equalise` moves the norm's bias into it.
            bias = constant(np.zeros(weight.shape[0], np.float32))
        first_node, weight_at = len(self.nodes), len(self.recipes)
        if scheme.kind == "float":
            y = self._linear_float(x, weight, bias)
        elif scheme.kind == "columns":
            y = self._linear_columns(x, weight, bias)
        else:
            y = self._linear_blocks(x, weight, bias, scheme)
        nodes = range(first_node, len(self.nodes))
        bias_at = None if bias is None else weight_at + 1
        self.linears.append(Linear(x, y, weight_at, bias_at, scheme, nodes))
        return y

    def _linear_float(self, x: Value, weight: Tensor, bias: Tensor | None) -> Value:
        n, k = weight.shape
        turned = Stored(self._name(weight), FLOAT, (k, n))
        matrix = self._recipe(weight, [turned], lambda w: [np.ascontiguousarray(w.T)])[0]
        return self._plus(self.op("MatMul", x, matrix), bias)

    def _linear_blocks(self, x: Value, weight: Tensor, bias: Tensor | None, scheme: Scheme) -> Value:
        n, k = weight.shape
        name = self._name(weight)
        blocks = -(-k // scheme.block_size)
        packed, scales = self._recipe(
            weight,
            [
                Stored(name, UINT8, (n, blocks, scheme.block_size * scheme.bits // 8)),
                # Loading copies them into the packed weights, after which no run reads them.
                Stored(f"{name}.scale", FLOAT, (n, blocks), mapped=True),
            ],
            lambda w: quantise.blocks(w, scheme.bits, scheme.block_size),
        )
        return self.fused(
            "MatMulNBits",
            *(x, packed, scales, None, None, None if bias is None else self.weight(bias)),
            **{"N": n, "K": k, "bits": scheme.bits, "block_size": scheme.block_size, "accuracy_level": 4},
        )

    def _plus(self, y: Value, bias: Tensor | None) -> Value:
        return y if bias is None else self.op("Add", y, self.weight(bias))

    def head(self, x: Value, weight: Tensor, scheme: Scheme) -> Value:
        """`linear`, in pieces where it is large: while the graph is loaded, ONNX Runtime holds the weights of one
        operator twice, and no other has as many."""
        n, k = weight.shape
        size = -(-n // -(-n * k // _PIECE))
        pieces = [weight.rows(start, min(start + size, n)) for start in range(0, n, size)]
        if len(pieces) == 1:
            return self.linear(x, weight, None, scheme)
        return self.op("Concat", *(self.linear(x, piece, None, scheme) for piece in pieces), axis=-1)

    def _linear_columns(self, x: Value, weight: Tensor, bias: Tensor | None) -> Value:
        n, k = weight.shape
        name = self._name(weight)
        matrix, scale = self._recipe(
            weight,
            [Stored(name, INT8, (k, n)), Stored(f"{name}.scale", FLOAT, (n,))],
            quantise.columns,
        )
        # The operator has one scale for all of x. Rows are brought to the same size before and back after,
        # so that one row of massive activations (Sun et al. 2024) does not leave the others a few levels.
        largest = self.op("ReduceMax", x, self.const([-1]), keepdims=1)
        smallest = self.op("ReduceMin", x, self.const([-1]), keepdims=1)
        # The constant avoids a division by zero for rows of zeros.
        size = self.op("Max", largest, self.op("Neg", smallest), self.const(1e-30, np.float32))
        y = self.fused("DynamicQuantizeMatMul", self.op("Div", x, size), matrix, scale)
        return self._plus(self.op("Mul", y, size), bias)

    def layer_norm(self, x: Value, weight: Tensor, bias: Tensor, epsilon: float) -> Value:
        """Layer normalisation over the last axis (Ba et al. 2016)."""
        at, parameters = self._norm_parameters(weight, bias)
        y = self.op("LayerNormalization", x, *parameters, epsilon=epsilon, axis=-1)
        return self._norm(y, *at)

    def add_layer_norm(
        self, x: Value, update: Value, weight: Tensor, bias: Tensor, epsilon: float
    ) -> tuple[Value, Value]:
        """(x + update, its layer normalisation)."""
        at, parameters = self._norm_parameters(weight, bias)
        normed, _, _, total = self.ops(
            "SkipLayerNormalization",
            *(x, update, *parameters),
            outputs=4,
            domain="com.microsoft",
            epsilon=epsilon,
        )
        return total, self._norm(normed, *at)

    def rms_norm(self, x: Value, weight: Tensor, epsilon: float) -> Value:
        """Root mean square normalisation (Zhang & Sennrich 2019), T5's layer norm."""
        at, parameters = self._norm_parameters(weight)
        y = self.op("SimplifiedLayerNormalization", x, *parameters, epsilon=epsilon, axis=-1)
        return self._norm(y, *at)

    def add_rms_norm(self, x: Value, update: Value, weight: Tensor, epsilon: float) -> tuple[Value, Value]:
        """(x + update, its root mean square normalisation)."""
        at, parameters = self._norm_parameters(weight)
        normed, _, _, total = self.ops(
            "SkipSimplifiedLayerNormalization",
            *(x, update, *parameters),
            outputs=4,
            domain="com.microsoft",
            epsilon=epsilon,
        )
        return total, self._norm(normed, *at)

    def _norm_parameters(self, gain: Tensor, bias: Tensor | None = None) -> tuple[list[int], list[Value]]:
        """(Where in `recipes` they are, their values)."""
        first = len(self.recipes)
        values = [self.weight(tensor) for tensor in (gain, bias) if tensor is not None]
        return list(range(first, len(self.recipes))), values

    def _norm(self, output: Value, gain: int, bias: int | None = None) -> Value:
        self.norms.append(Norm(output, gain, bias))
        return output

    def attention(
        self,
        query: Value,
        key: Value,
        value: Value,
        heads: int,
        scale: float,
        bias: Value | None = None,
        mask: Value | None = None,
    ) -> Value:
        """Every query sees every key: [B, S, heads*H] x [B, T, heads*H] (or [B, heads, T, H]) -> query's shape.

        `bias` [B or 1, heads or 1, S, T] is added to the scores; keys where `mask` (int32 [B, T]) is 0 are not seen.
        """
        return self.fused(
            "MultiHeadAttention", *(query, key, value, None, mask, bias), num_heads=heads, scale=scale
        )

    def cached_attention(
        self,
        qkv: Value,
        layer: int,
        heads: int,
        head_dim: int,
        scale: float,
        cache: CacheInputs,
        shared_heads: int | None = None,
    ) -> Value:
        """Causal attention of new tokens on themselves and the cache: qkv [B, S, (heads + 2*shared)*head_dim].

        `shared_heads`: how many heads of keys and values there are (None: as many as of queries). The caller binds
        `past_*` and `present_*` to one buffer [B, shared, capacity, head_dim]: the new keys and values are written
        into it in place.
        """
        shared, rotary = shared_heads or heads, cache.rotary
        pasts = [
            self.input(f"past_{kind}_{layer}", FLOAT, "B", shared, "P", head_dim) for kind in ("key", "value")
        ]
        turned = (rotary.cos, rotary.sin, rotary.positions) if rotary else (None, None, None)
        y, *presents = self.ops(
            "GroupQueryAttention",
            *(qkv, None, None, *pasts, cache.lengths, cache.total, *turned, cache.bias),
            outputs=3,
            domain="com.microsoft",
            num_heads=heads,
            kv_num_heads=shared,
            scale=scale,
            **({"do_rotary": 1} if rotary else {}),
        )
        for kind, present in zip(("key", "value"), presents, strict=True):
            self.output(present, f"present_{kind}_{layer}", FLOAT, "B", shared, "P", head_dim)
        return y

    # Results

    def model(self, weights: Sequence[TensorProto]) -> onnx.ModelProto:
        """The finished graph, with the references to its stored `weights`."""
        graph = helper.make_graph(
            self.nodes, self.name, self._inputs, self._outputs, [*self._constants, *weights]
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSET.items()]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="blip2-chat"
        )

    def _name(self, tensor: Tensor) -> str:
        """The name of its first source, which is unique in a graph, and the part of it."""
        return f"{tensor.sources[0][0]}{tensor.part}" if tensor.sources else f"constant.{len(self.recipes)}"

    def _recipe(
        self,
        tensor: Tensor,
        outputs: Sequence[Stored],
        make: Callable[[Floats], Sequence[Array]],
    ) -> tuple[Value, ...]:
        self.recipes.append(Recipe(tensor, tuple(outputs), make))
        return tuple(output.name for output in outputs)


@dataclass(frozen=True)
class Rotary:
    """Rotary positions: cosines and sines [positions, head_dim / 2], and which new token is where [B, S]."""

    cos: Value
    sin: Value
    positions: Value


@dataclass(frozen=True)
class CacheInputs:
    """What GroupQueryAttention asks besides the buffers: per row the last position (`lengths` [B]: tokens
    after this call, minus 1), the longest row's tokens (`total`), a `bias` on the scores or None, rotary positions
    or None."""

    lengths: Value
    total: Value
    bias: Value | None = None
    rotary: Rotary | None = None
