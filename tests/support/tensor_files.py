"""Safetensors files, read and written by numpy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "uint8": "U8"}


def load_tensors(path: Path) -> dict[str, np.ndarray]:
    """What `save_tensors` wrote; bfloat16 as `ml_dtypes.bfloat16`."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    kinds = {short: np.dtype(getattr(ml_dtypes, name, name)) for name, short in _DTYPES.items()}
    tensors = {}
    for name, one in header.items():
        first, end = one["data_offsets"]
        flat = np.frombuffer(content[start + first : start + end], kinds[one["dtype"]])
        tensors[name] = flat.reshape(one["shape"])
    return tensors


def save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file as transformers writes it; safetensors' own numpy part cannot write `ml_dtypes.bfloat16`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[tensor.dtype.name],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    data = b"".join(tensor.tobytes() for tensor in tensors.values())
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)
