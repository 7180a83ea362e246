"""Reads a checkpoint's tensors one by one, with numpy only.

numpy has no bfloat16; its bits are the upper half of a float32's.
"""

from __future__ import annotations

import numpy as np

from ....checkpoint.inspect import AnyCheckpoint
from ....errors import CheckpointError
from ...engine import Floats


class Weights:
    """The tensors of one checkpoint, by their names in the official layout; nothing is read until `read`."""

    def __init__(self, checkpoint: AnyCheckpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, name: str) -> Floats:
        """One tensor as float32, freshly read: the caller owns the only copy."""
        tensor = self._checkpoint.tensors[self._checkpoint.stored_name(name)]
        path = self._checkpoint.folder / tensor.file
        # Not memory-mapped: mapped pages would stay resident beyond the tensor's use.
        with path.open("rb") as file:
            file.seek(tensor.offset)
            raw = np.fromfile(file, np.uint8, tensor.nbytes)
        if raw.nbytes != tensor.nbytes:
            raise CheckpointError(f"{path} is cut off: it ends inside {name}; fetch it again", path=path)
        values = _to_float32(raw, tensor.dtype).reshape(tensor.shape)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{path}: {name} holds values that are not numbers", path=path)
        # A file that was given its size before its content, and never all of that; biases may be zero.
        if values.ndim in (2, 4) and not values.any():
            raise CheckpointError(
                f"{path} was not written whole: {name} is nothing but zeros; fetch it again", path=path
            )
        return values


def _to_float32(raw: np.ndarray, dtype: str) -> Floats:
    if dtype == "F32":
        return raw.view(np.float32)
    if dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    wide = raw.view(np.uint16).astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
