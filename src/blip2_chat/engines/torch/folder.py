"""A checkpoint under the file names that transformers asks for, with its adapter merged into it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...checkpoint.adapters import Adapter, has_adapter
from ...checkpoint.inspect import AnyCheckpoint
from ...checkpoint.safetensors_headers import INDEX, SINGLE
from ...checkpoint.tensor_names import aliases, expected_tensors
from ...checkpoint.weights import Weights
from ...errors import CheckpointError
from ...sizes import gigabytes
from ...system.small_files import read_json

# transformers reads the files in the order of their names, and the last that holds a tensor counts.
_BASE, _MERGED = "base.safetensors", "merged.safetensors"
_CONFIGS = ("config.json", "generation_config.json")


@contextmanager
def standard_folder(checkpoint: AnyCheckpoint) -> Iterator[Path]:
    """The checkpoint's folder; where its weights have other names than transformers', an adapter is merged with them,
    or one that PEFT would apply lies beside them, a temporary one with links to them. Raises `CheckpointError`."""
    folder, files, adapter = checkpoint.folder, checkpoint.weight_files, checkpoint.adapter
    is_standard = files == (SINGLE,) or (folder / INDEX).is_file()
    if is_standard and adapter is None and not has_adapter(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="blip2-chat-", ignore_cleanup_errors=True) as temporary:
        made = Path(temporary)
        for name in _CONFIGS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, made / name)
        # Of other names: a `model.safetensors` would go before the index.
        links = {file: f"{number:05}-{_BASE}" for number, file in enumerate(files)}
        for file, link in links.items():
            _link((folder / file).resolve(), made / link)
        names = {name: links[info.file] for name, info in checkpoint.tensors.items()}
        if adapter is not None:
            names |= dict.fromkeys(_write_merged(checkpoint, adapter, made / _MERGED), _MERGED)
            if adapter.unties_head:
                _untie(made / "config.json")
        (made / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}), encoding="utf-8")
        yield made


def _write_merged(checkpoint: AnyCheckpoint, adapter: Adapter, path: Path) -> list[str]:
    """A safetensors file with the tensors that the adapter changes, in float32, one in memory at a time; their names.
    `CheckpointError` when the disk has no room."""
    # Untied, head and embeddings are two tensors, of which the file may have held one.
    names = {*adapter.changed, *(aliases(checkpoint.config, True) if adapter.unties_head else ())}
    shapes = {name: shape for name, shape in expected_tensors(checkpoint.config).items() if name in names}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    free = shutil.disk_usage(path.parent).free
    if end > free:
        raise CheckpointError(
            f"merging {adapter.folder} needs {gigabytes(end)} of disk at {path.parent} while the model is loaded, "
            f"and {gigabytes(free)} are free; set TMPDIR to a folder elsewhere"
        )
    weights = Weights(checkpoint)
    head = json.dumps(header).encode()
    try:
        with path.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name in shapes:
                file.write(np.ascontiguousarray(weights.read(name)).data)
    except OSError as error:
        raise CheckpointError(
            f"merging {adapter.folder} stopped: {path.parent} cannot be written to ({error.strerror or error}); set "
            "TMPDIR to a folder elsewhere"
        ) from None
    return list(shapes)


def _untie(path: Path) -> None:
    raw = read_json(path)
    raw["text_config"]["tie_word_embeddings"] = False
    path.write_text(json.dumps(raw), encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError:  # Windows asks for a privilege
        try:
            os.link(source, target)
        except OSError as error:
            raise CheckpointError(
                f"{source} cannot be linked into the folder that transformers loads ({error.strerror}); rename the "
                "files as the official checkpoints have them, or use engine='onnx'"
            ) from None
