"""The weight files of a folder, read by their headers only: no tensor data is touched."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import CheckpointError
from ..system.shell import python_command
from ..system.small_files import plain, read_json, shown

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# The format allows 100 MB, whose parsing takes gigabytes; the largest official header has 200 kB.
_MOST_HEADER_BYTES = 16_000_000
_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
# What weights may be stored in; others occur in tensors that are not used.
FLOATS = ("F32", "F16", "BF16")
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class TensorInfo:
    """The place and type of a tensor. `offset` and `nbytes` are in its file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def is_pickle(name: str) -> bool:
    return name.lower().endswith(_PICKLES)


def is_safe_name(name: object) -> bool:
    """A plain file name on every system: no folder, drive or `..`, and not too long."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and name.isprintable()
        and len(name.encode()) <= 255
        and PurePosixPath(name).name == name
        and PureWindowsPath(name).name == name
    )


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint folder by name, from the headers of its files. `CheckpointError`, in one line
    with the way out, when a file is absent, damaged or only a pickle."""
    files = weight_files(folder)
    if not files:
        raise _no_weights(folder)
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        more = f" and {len(absent) - 1} more of {len(files)} files" if len(absent) > 1 else ""
        raise CheckpointError(
            f"{folder} lacks {absent[0]}{more}, which its index names; fetch them again", path=folder
        )
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in read_header(folder / file).items():
            if name in tensors:
                raise CheckpointError(
                    f"{folder}: {plain(name)} is both in {tensors[name].file} and in {file}", path=folder
                )
            tensors[name] = info
    if files != [SINGLE]:
        for name, file in indexed_tensors(folder).items():
            if name not in tensors:
                raise CheckpointError(
                    f"{folder / file} lacks {plain(name)}, which the index says is in it; fetch it again",
                    path=folder / file,
                )
    return tensors


def weight_files(folder: Path) -> list[str]:
    """The names of the safetensors files that make up the checkpoint; none when it has no safetensors.

    One `model.safetensors` goes before an index, as in transformers. The files of an index need not exist. Without
    either, see `unindexed`.
    """
    if (folder / SINGLE).is_file():
        return [SINGLE]
    indexed = sorted(set(indexed_tensors(folder).values()))
    return indexed or unindexed([path.name for path in folder.iterdir() if path.is_file()])


def unindexed(names: Iterable[str]) -> list[str]:
    """Of a folder's file names those that are its weights, where neither `model.safetensors` nor an index says so:
    a whole numbered set (`pytorch_model-00001-of-00002.safetensors`, …), or the only file; none where it is open."""
    safe = sorted(name for name in names if name.endswith(".safetensors") and not is_adapter(name))
    sets: dict[tuple[str, int], list[int]] = {}
    for name in safe:
        if found := _NUMBERED.fullmatch(name):
            sets.setdefault((found[1], int(found[3])), []).append(int(found[2]))
    whole = [key for key, numbers in sets.items() if sorted(numbers) == list(range(1, key[1] + 1))]
    if len(whole) == 1:
        stem, count = whole[0]
        return [
            name for name in safe if (m := _NUMBERED.fullmatch(name)) and (m[1], int(m[3])) == (stem, count)
        ]
    return safe if len(safe) == 1 and not sets else []


def is_adapter(name: str) -> bool:
    """Whether a file belongs to an adapter (LoRA), as PEFT names them."""
    return name.startswith("adapter_") or name == "adapter.safetensors"


def indexed_tensors(folder: Path) -> dict[str, str]:
    """The index's map of tensor to file; empty when there is no index. Refuses names outside the folder."""
    path = folder / INDEX
    if not path.exists():
        return _other_index(folder)
    raw = read_json(path)
    files = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{path} has no weight_map: the index is damaged, fetch it again", path=path)
    for file in files.values():
        if not _is_weight_file(file):
            raise CheckpointError(
                f"{path} names {shown(file)}, which is not a safetensors file of this folder: refused",
                path=path,
            )
    return files


def _other_index(folder: Path) -> dict[str, str]:
    """The only other index whose files are safetensors, such as `pytorch_model.safetensors.index.json`."""
    found = []
    for path in sorted(folder.glob("*.index.json")):
        raw = read_json(path)
        files = raw.get("weight_map") if isinstance(raw, dict) else None
        if isinstance(files, dict) and files and all(map(_is_weight_file, files.values())):
            found.append(files)
    return found[0] if len(found) == 1 else {}


def _is_weight_file(name: object) -> bool:
    return isinstance(name, str) and is_safe_name(name) and name.endswith(".safetensors")


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one file by name. `CheckpointError` when header and file size do not agree."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                raise CheckpointError(
                    f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder",
                    path=path,
                )
            if size >= 8 and length > _MOST_HEADER_BYTES:
                raise CheckpointError(
                    f"{path} is not a safetensors file: its header would have {length} bytes", path=path
                )
            if size < 8 or length > size - 8:
                raise CheckpointError(
                    f"{path} is cut off in its header ({size} bytes): fetch it again", path=path
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}", path=path) from None
    except (ValueError, RecursionError):
        raise CheckpointError(
            f"{path} is not a safetensors file, or is damaged: fetch it again", path=path
        ) from None
    try:
        return _tensors(path, header, 8 + length, size)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(
            f"{path} has a header that is not safetensors': fetch it again", path=path
        ) from None


def _tensors(path: Path, header: dict[str, Any], start: int, size: int) -> dict[str, TensorInfo]:
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
            raise CheckpointError(
                f"{path}: the size of {plain(name)} is not that of its shape: the file is damaged", path=path
            )
        tensors[name] = TensorInfo(path.name, entry["dtype"], shape, start + begin, end - begin)
        spans.append((begin, end))
    reached = 0
    for begin, end in sorted(spans):
        # The format leaves no holes and no overlaps.
        if begin != reached or end < begin:
            raise CheckpointError(
                f"{path}: its tensors overlap or leave holes: the file is damaged", path=path
            )
        reached = end
    missing = start + reached - size
    if missing > 0:
        raise CheckpointError(
            f"{path} is cut off: {missing} of its bytes are missing; fetch it again", path=path
        )
    if missing < 0:
        raise CheckpointError(
            f"{path} has {-missing} bytes more than its header says: fetch it again", path=path
        )
    return tensors


def _no_weights(folder: Path) -> CheckpointError:
    names = sorted(path.name for path in folder.iterdir())
    safe = [name for name in names if name.endswith(".safetensors") and not is_adapter(name)]
    if safe:
        return CheckpointError(
            f"{folder} has {plain(safe[0])} but neither {SINGLE} nor {INDEX}; fetch the index too",
            path=folder,
        )
    pickles = [name for name in names if is_pickle(name)]
    if not pickles:
        return CheckpointError(f"{folder} has no weights: it lacks {SINGLE}", path=folder)
    return CheckpointError(
        f"{folder} has its weights only as pickles ({plain(pickles[0])}), which can run code when loaded; take the "
        f"model's safetensors from the hub, or convert, with torch: {conversion_command(folder, pickles)}",
        path=folder,
    )


def conversion_command(folder: Path, pickles: list[str]) -> str:
    """A shell command that writes `model.safetensors` beside the pickled weights of that folder.

    It reads tensors only (`weights_only`) and copies each, since safetensors refuses shared memory. It does
    not go through transformers, whose version 5 rewrites config.json on saving.
    """
    is_official = any(name.startswith("pytorch_model") for name in pickles)
    code = (
        "import glob, os, sys, torch; from safetensors.torch import save_file; os.chdir(sys.argv[1]); w = {}; "
        f"[w.update(torch.load(f, 'cpu', weights_only=True)) for f in {_files(is_official)}]; "
        "w = {k: t.contiguous().clone() for k, t in w.items()}; "
        f"save_file(w, '{SINGLE}', {{'format': 'pt'}})"
    )
    return python_command(code, folder.as_posix(), *([] if is_official else pickles[:1]))


def _files(is_official: bool) -> str:
    return "glob.glob('pytorch_model*.bin')" if is_official else "sys.argv[2:]"
