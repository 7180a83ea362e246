"""Writes a planned graph to disk: `NAME.onnx`, and `NAME.onnx.data` with its weights, in any order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx

from ..engine import Floats
from .graph import gptq, quantise
from .graph.builder import Graph, Scheme
from .graph.equalise import equalise
from .graph.tensors import Array, Recipe, Tensor
from .manifest import MappedTensor

# Where a memory page starts, so that each tensor can be mapped by itself.
_ALIGNMENT = 4096


@dataclass(frozen=True)
class Layout:
    """A graph's two files, before any weight is read: what is in NAME.onnx, and where in NAME.onnx.data."""

    model: onnx.ModelProto
    offsets: tuple[tuple[int, ...], ...]  # of each recipe's arrays
    data_size: int  # of NAME.onnx.data, in bytes
    mapped: tuple[MappedTensor, ...]


def layout(graph: Graph) -> Layout:
    """Each array starts where a memory page does."""
    protos, offsets, mapped = [], [], []
    end = 0
    for recipe in graph.recipes:
        places = []
        for array in recipe.outputs:
            offset = end + -end % _ALIGNMENT
            end = offset + array.nbytes
            places.append(offset)
            protos.append(array.external(f"{graph.name}.onnx.data", offset))
            if array.mapped:
                mapped.append(MappedTensor(array.name, array.numpy_dtype.name, array.shape, offset))
        offsets.append(tuple(places))
    return Layout(graph.model(protos), tuple(offsets), end, tuple(mapped))


class GraphFile:
    """Writes one graph's files: `calibrate` for the layers whose inputs are known, then `finish` for all else.

    `read` makes a tensor from the checkpoint; it is called for one weight after another. `report` is called with the
    name and bytes of everything that is written.
    """

    def __init__(
        self,
        graph: Graph,
        read: Callable[[Tensor], Floats],
        folder: Path,
        report: Callable[[str, int], None],
    ) -> None:
        self._graph = graph
        self._read = read
        self._path = folder / f"{graph.name}.onnx"
        self._report = report
        self._layout = layout(graph)
        self._rewrites = equalise(graph, read)
        self._written: set[int] = set()
        self._file = (folder / f"{graph.name}.onnx.data").open("wb")
        self._calibrated = {
            graph.recipes[linear.weight].outputs[0].name: linear
            for linear in graph.linears
            if _is_compensated(linear.scheme) or (linear.scheme.kind != "float" and linear.bias is not None)
        }

    def __enter__(self) -> GraphFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def wanted(self) -> Collection[str]:
        """The names of the weights that `calibrate` is for."""
        return self._calibrated.keys()

    def calibrate(self, name: str, inputs: Floats) -> None:
        """Quantises and writes the weight of that name for inputs [T, K] that its layer gets in float32.

        4-bit integers are chosen such that these inputs give nearly the same outputs (`gptq.py`). The mean error
        that remains is subtracted from the layer's bias, if it has one (Nagel et al. 2019, section 4.2).
        """
        linear = self._calibrated[name]
        recipe, scheme = self._graph.recipes[linear.weight], linear.scheme
        matrix = self._rewrites.apply(linear.weight, self._read(recipe.tensor))
        inputs = self._rewrites.apply_to_inputs(linear.weight, inputs)
        mean = inputs.mean(axis=0, dtype=np.float64).astype(np.float32)
        arrays: Sequence[Array]
        if _is_compensated(scheme):
            # The integers need not compensate what the bias corrects.
            varying = inputs if linear.bias is None else inputs - mean
            arrays = gptq.blocks(matrix, varying, scheme.bits, scheme.block_size)
        else:
            arrays = recipe.make(matrix)
        if linear.bias is not None:
            error = matrix - restored(scheme, arrays, matrix.shape[1])
            self._rewrites[linear.bias].correction = (error @ mean).astype(np.float32)
        self._write(linear.weight, recipe, arrays)

    def finish(self) -> tuple[MappedTensor, ...]:
        """Writes what is not yet written; returns the tensors to be mapped."""
        for at, recipe in enumerate(self._graph.recipes):
            if at not in self._written:
                self._write(at, recipe, recipe.make(self._rewrites.apply(at, self._read(recipe.tensor))))
        onnx.save(self._layout.model, self._path)
        return self._layout.mapped

    def _write(self, at: int, recipe: Recipe, arrays: Sequence[Array]) -> None:
        for stored, array, offset in zip(recipe.outputs, arrays, self._layout.offsets[at], strict=True):
            if array.shape != stored.shape or array.dtype != stored.numpy_dtype:
                raise AssertionError(f"{stored} was planned, {array.dtype} {array.shape} was made")
            self._file.seek(offset)
            self._file.write(np.ascontiguousarray(array).data)
        self._written.add(at)
        self._report(recipe.outputs[0].name, recipe.nbytes)


def _is_compensated(scheme: Scheme) -> bool:
    """Whether the integers are so coarse that GPTQ is worth its time."""
    return scheme.kind == "blocks" and scheme.bits == 4


def restored(scheme: Scheme, arrays: Sequence[Array], k: int) -> Floats:
    """The float32 matrix [N, K] that quantised arrays stand for."""
    integers, scales = arrays
    if scheme.kind == "columns":
        return quantise.restored_columns(integers, scales)
    return quantise.restored_blocks(integers, scales, scheme.bits, k)
