"""The weight files of a folder, read by their headers only: no tensor data is touched."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# The format's own limit on a header (safetensors: "header too large").
_MOST_HEADER_BYTES = 100_000_000
_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies and what it is."""

    file: str
    dtype: str
    shape: tuple[int, ...]


def is_pickle(name: str) -> bool:
    return name.lower().endswith(_PICKLES)


def is_safe_name(name: object) -> bool:
    """A plain file name on every system: no folder, no drive, no way up."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and PurePosixPath(name).name == name
        and PureWindowsPath(name).name == name
    )


def read_json(path: Path) -> Any:
    """The parsed file; `CheckpointError` naming it when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None


def weight_files(folder: Path) -> list[str]:
    """The names of the safetensors files that make up the checkpoint; none when it has no safetensors.

    One `model.safetensors` goes before an index, as in transformers. The files of an index need not exist.
    """
    if (folder / SINGLE).is_file():
        return [SINGLE]
    return sorted(set(indexed_tensors(folder).values()))


def indexed_tensors(folder: Path) -> dict[str, str]:
    """The index's map of tensor to file; empty when there is no index. Refuses names outside the folder."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    raw = read_json(path)
    files = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{path} has no weight_map: the index is damaged, fetch it again")
    for file in files.values():
        if not is_safe_name(file) or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{path} names {file!r}, which is no safetensors file of this folder: refused"
            )
    return files


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one file by name. `CheckpointError` when header and file size do not agree."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                raise CheckpointError(
                    f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder"
                )
            if size < 8 or length > size - 8:
                raise CheckpointError(f"{path} is cut off in its header ({size} bytes): fetch it again")
            if length > _MOST_HEADER_BYTES:
                raise CheckpointError(
                    f"{path} is not a safetensors file: its header would have {length} bytes"
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is not a safetensors file, or is damaged: fetch it again") from None
    try:
        return _tensors(path, header, size - 8 - length)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"{path} has a header that is not safetensors': fetch it again") from None


def _tensors(path: Path, header: dict[str, Any], data_bytes: int) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError(name)
        width = _DTYPE_BYTES.get(entry["dtype"])
        if width is not None and end - begin != prod(shape) * width:
            raise CheckpointError(f"{path}: the size of {name} is not that of its shape: the file is damaged")
        tensors[name] = TensorInfo(path.name, entry["dtype"], shape)
        spans.append((begin, end))
    reached = 0
    for begin, end in sorted(spans):
        # The format leaves no holes and no overlaps.
        if begin != reached or end < begin:
            raise CheckpointError(f"{path}: its tensors overlap or leave holes: the file is damaged")
        reached = end
    if data_bytes < reached:
        raise CheckpointError(
            f"{path} is cut off: {reached - data_bytes} of its bytes are missing; fetch it again"
        )
    if data_bytes > reached:
        raise CheckpointError(
            f"{path} has {data_bytes - reached} bytes more than its header says: fetch it again"
        )
    return tensors
