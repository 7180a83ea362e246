"""Reads a checkpoint's tensors one by one, with numpy only; those that an adapter changes, merged with it.

numpy has no bfloat16; its bits are the upper half of a float32's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .adapters import LowRank
from .inspect import AnyCheckpoint
from .safetensors_headers import TensorInfo

Floats = NDArray[np.float32]

# Of DoRA, whose rows are divided by their norms.
_TINY = np.finfo(np.float32).tiny


class Weights:
    """The tensors of one checkpoint, by their names in the official layout; nothing is read until `read`."""

    def __init__(self, checkpoint: AnyCheckpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, name: str) -> Floats:
        """One tensor as float32, freshly read: the caller owns the only copy. Memory: this tensor, and once more its
        size where an adapter is added to it. Raises `CheckpointError`."""
        adapter = self._checkpoint.adapter
        if adapter is None:
            return self._own(name)
        whole = adapter.replaced.get(name)
        values = self._own(name) if whole is None else _read(adapter.weights, whole, name)
        if name in adapter.low_rank:
            _add(values, adapter.weights, adapter.low_rank[name], name)
        return values

    def _own(self, name: str) -> Floats:
        """The checkpoint's tensor, without an adapter."""
        info = self._checkpoint.tensors[self._checkpoint.stored_name(name)]
        path = self._checkpoint.folder / info.file
        values = _read(path, info, name)
        # All zeros: a file that was allocated in full, but not completely written. Biases may be zero.
        if values.ndim in (2, 4) and not values.any():
            raise CheckpointError(
                f"{path} was not written whole: {name} is nothing but zeros; fetch it again", path=path
            )
        return values


def _read(path: Path, tensor: TensorInfo, name: str) -> Floats:
    # Not memory-mapped: mapped pages would stay resident beyond the tensor's use.
    with path.open("rb") as file:
        file.seek(tensor.offset)
        raw = np.fromfile(file, np.uint8, tensor.nbytes)
    if raw.nbytes != tensor.nbytes:
        raise CheckpointError(f"{path} is cut off: it ends inside {name}; fetch it again", path=path)
    values = _to_float32(raw, tensor.dtype).reshape(tensor.shape)
    if not np.isfinite(values).all():
        raise CheckpointError(f"{path}: {name} holds values that are not numbers", path=path)
    return values


def _add(values: Floats, path: Path, change: LowRank, name: str) -> None:
    """W += scaling * B A, in place; with a magnitude, each row is then given that norm (DoRA)."""
    a, b = _read(path, change.a, name), _read(path, change.b, name)
    rank = len(a)
    product = b.reshape(-1, rank) @ a.reshape(rank, -1)
    product *= np.float32(change.scaling)
    values += product.reshape(values.shape)
    if change.magnitude is not None:
        norms = np.linalg.norm(values, axis=1)
        values *= (_read(path, change.magnitude, name) / np.maximum(norms, _TINY))[:, None]


def _to_float32(raw: np.ndarray, dtype: str) -> Floats:
    if dtype == "F32":
        return raw.view(np.float32)
    if dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    wide = raw.view(np.uint16).astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
