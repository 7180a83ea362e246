"""The weights of a graph before they are read: which tensors of the checkpoint each is made from, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from ...engine import Floats

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
INT8, UINT8 = TensorProto.INT8, TensorProto.UINT8
Value = str
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tensor:
    """A float32 array that is not computed yet: `make` receives the `sources` (names and shapes in the
    checkpoint), in order."""

    sources: tuple[tuple[str, tuple[int, ...]], ...]
    shape: tuple[int, ...]
    make: Callable[..., Floats] = lambda array: array
    part: str = ""  # its rows, if they are not all of them

    def rows(self, start: int, stop: int) -> Tensor:
        """Some rows of it, as a tensor of their own."""
        make = self.make
        shape = (stop - start, *self.shape[1:])
        return Tensor(self.sources, shape, lambda *arrays: make(*arrays)[start:stop], f"[{start}:{stop}]")

    def map(self, function: Callable[[Floats], Floats], *shape: int) -> Tensor:
        """The tensor after `function`, of the shape that results (by default the same)."""
        make = self.make
        return Tensor(self.sources, shape or self.shape, lambda *arrays: function(make(*arrays)))


def stored(name: str, *shape: int) -> Tensor:
    """The checkpoint's tensor `name`."""
    return Tensor(((name, shape),), shape)


def constant(array: Floats) -> Tensor:
    """An array that does not come from the checkpoint."""
    return Tensor((), array.shape, lambda: array)


def stack(*parts: Tensor) -> Tensor:
    """The tensors one after the other along their first axis."""
    counts = [len(part.sources) for part in parts]

    def make(*arrays: Floats) -> Floats:
        queue = list(arrays)
        made = [part.make(*(queue.pop(0) for _ in range(n))) for part, n in zip(parts, counts, strict=True)]
        return np.concatenate(made)

    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Tensor(sum((part.sources for part in parts), ()), shape, make)


def pad_heads(tensor: Tensor, heads: int, padded: int, axis: int = 0) -> Tensor:
    """Each head's slice of `axis` (heads * head_dim long) lengthened to `padded` with zeros.

    GroupQueryAttention wants heads of a multiple of 8; zeros change neither the scores nor, with zero columns
    in the output projection, the result.
    """
    head_dim = tensor.shape[axis] // heads
    if head_dim == padded:
        return tensor
    shape = list(tensor.shape)
    shape[axis] = heads * padded

    def pad(array: Floats) -> Floats:
        split = array.reshape(*array.shape[:axis], heads, head_dim, *array.shape[axis + 1 :])
        widths = [(0, 0)] * split.ndim
        widths[axis + 1] = (0, padded - head_dim)
        return np.pad(split, widths).reshape(shape)

    return tensor.map(pad, *shape)


@dataclass(frozen=True)
class Stored:
    """An initializer as it lies on disk. `mapped`: it is left there when the graph is loaded, because a run reads
    few of its bytes or none (see `runtime.py`)."""

    name: Value
    dtype: int
    shape: tuple[int, ...]
    mapped: bool = False

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.dtype))

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.numpy_dtype.itemsize

    def external(self, location: str, offset: int) -> TensorProto:
        """The reference to its data in the file `location`."""
        proto = TensorProto(name=self.name, data_type=self.dtype, dims=self.shape)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", self.nbytes)):
            proto.external_data.add(key=key, value=str(value))
        return proto


@dataclass(frozen=True)
class Recipe:
    """Initializers made together: `make` receives the tensor's array and returns one array per output."""

    tensor: Tensor
    outputs: tuple[Stored, ...]
    make: Callable[[Floats], Sequence[Array]]

    @property
    def nbytes(self) -> int:
        return sum(output.nbytes for output in self.outputs)
