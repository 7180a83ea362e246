"""Reads safetensors checkpoints tensor by tensor, with numpy only, and says exactly what is wrong with them.

The format (https://github.com/huggingface/safetensors, README, "Format"): 8 bytes of header length, a JSON header
that maps each name to `dtype`, `shape` and `data_offsets`, then the data. numpy has no bfloat16; its bits are the
upper half of a float32's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError
from ..engine import Floats

_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
# The header of the largest official checkpoint has 130 kB; the format's own limit is 100 MB.
_MAX_HEADER = 100_000_000

# Tensors that a checkpoint may have and the chat model does not use: the Q-Former's text branch, which
# only the image-text matching models read, buffers that old versions stored, T5's copies of its embedding.
_IGNORED = re.compile(
    r"embeddings\..*"
    r"|qformer\.embeddings\..*"
    r"|qformer\.encoder\.layer\.\d+\.(intermediate|output)\..*"
    r"|(vision|text)_projection\..*|itm_head\..*"
    r"|language_model\.(en|de)coder\.embed_tokens\.weight"
    r"|language_model\.decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
    r"|.*\.(position_ids|rotary_emb\.inv_freq)"
)


@dataclass(frozen=True)
class _Entry:
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Weights:
    """The tensors of one checkpoint folder; nothing is read until `read`."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._entries: dict[str, _Entry] = {}
        for path, names in _files(self.folder).items():
            entries = _read_header(path)
            absent = sorted(names - entries.keys())
            if absent:
                raise CheckpointError(f"{path} lacks {_list(absent)}, which {_INDEX} says it has")
            self._entries.update(entries)

    @property
    def files(self) -> list[Path]:
        return sorted({entry.path for entry in self._entries.values()})

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def check(self, expected: dict[str, tuple[int, ...]]) -> None:
        """`CheckpointError` naming every tensor that is missing, misshapen, or belongs to something else."""
        missing = sorted(expected.keys() - self._entries.keys())
        if missing:
            raise CheckpointError(f"{self.folder}: the checkpoint lacks {_list(missing)}")
        misshapen = [
            f"{name} is {list(self._entries[name].shape)}, config.json says {list(shape)}"
            for name, shape in expected.items()
            if self._entries[name].shape != shape
        ]
        if misshapen:
            raise CheckpointError(f"{self.folder}: {_list(misshapen)}")
        foreign = [
            f"{n} ({self._entries[n].dtype})" for n in expected if self._entries[n].dtype not in _BYTES
        ]
        if foreign:
            raise CheckpointError(
                f"{self.folder}: weights must be float32, float16 or bfloat16; not so {_list(foreign)}"
            )
        unexpected = sorted(
            name for name in self._entries.keys() - expected.keys() if not _IGNORED.fullmatch(name)
        )
        if unexpected:
            raise CheckpointError(
                f"{self.folder}: the checkpoint has tensors of another model: {_list(unexpected)}"
            )

    def read(self, name: str) -> Floats:
        """One tensor as float32, freshly read: the caller owns the only copy."""
        entry = self._entries[name]
        # Not memory-mapped: mapped pages would stay resident beyond the tensor's use.
        with entry.path.open("rb") as file:
            file.seek(entry.offset)
            raw = np.fromfile(file, np.uint8, entry.nbytes)
        if raw.nbytes != entry.nbytes:
            raise CheckpointError(f"{entry.path} ends inside {name}: it is truncated")
        values = _to_float32(raw, entry.dtype).reshape(entry.shape)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{entry.path}: {name} holds values that are not numbers")
        return values


def _to_float32(raw: np.ndarray, dtype: str) -> Floats:
    if dtype == "F32":
        return raw.view(np.float32)
    if dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    wide = raw.view(np.uint16).astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _files(folder: Path) -> dict[Path, set[str]]:
    """The weight files, each with the names that the index promises in it (none without an index)."""
    index = folder / _INDEX
    if index.exists():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files: dict[Path, set[str]] = {}
            for name, file in weight_map.items():
                # A name with a path in it could point outside the folder.
                if Path(file).name != file:
                    raise CheckpointError(f"{index} names a file outside its folder: {file!r}")
                files.setdefault(folder / file, set()).add(name)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index} is not an index of safetensors files: {error!r}") from None
    else:
        files = {folder / _SINGLE: set()}
    absent = [path.name for path in sorted(files) if not path.is_file()]
    if absent == [_SINGLE] and any(folder.glob("pytorch_model*.bin")):
        raise CheckpointError(
            f"{folder} has only pytorch_model*.bin (pickles, which can run code); it needs safetensors files: "
            "download a newer revision"
        )
    if absent:
        raise CheckpointError(f"{folder} lacks {_list(absent)}")
    return files


def _read_header(path: Path) -> dict[str, _Entry]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise CheckpointError(f"{path} is not a safetensors file, or is truncated ({size} bytes)")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = {name: _entry(path, 8 + length, spec) for name, spec in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} has a damaged safetensors header: {error}") from None
    end = max((entry.offset + entry.nbytes for entry in entries.values()), default=8 + length)
    if end != size:
        kind = "truncated" if size < end else "longer than its header says"
        raise CheckpointError(f"{path} is {kind}: {size} bytes, expected {end}")
    return entries


def _entry(path: Path, start: int, spec: dict[str, Any]) -> _Entry:
    dtype, shape = spec["dtype"], tuple(int(n) for n in spec["shape"])
    begin, end = (int(n) for n in spec["data_offsets"])
    # Other types may occur in tensors that are not used (position_ids); `check` refuses them elsewhere.
    nbytes = prod(shape) * _BYTES[dtype] if dtype in _BYTES else end - begin
    if begin < 0 or end - begin != nbytes or min(shape, default=0) < 0:
        raise ValueError(f"{shape} {dtype} does not fill its {end - begin} bytes")
    return _Entry(path, dtype, shape, start + begin, nbytes)


def _list(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
