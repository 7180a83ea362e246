"""A checkpoint under the file names that transformers asks for."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...checkpoint.adapters import has_adapter
from ...checkpoint.inspect import AnyCheckpoint
from ...checkpoint.safetensors_headers import INDEX, SINGLE
from ...errors import CheckpointError

_CONFIGS = ("config.json", "generation_config.json")


@contextmanager
def standard_folder(checkpoint: AnyCheckpoint) -> Iterator[Path]:
    """The checkpoint's folder; where its weights have other names than transformers', or an adapter that PEFT would
    apply lies beside them, a temporary one with links to them. Raises `CheckpointError`."""
    folder, files = checkpoint.folder, checkpoint.weight_files
    if (files == (SINGLE,) or (folder / INDEX).is_file()) and not has_adapter(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="blip2-chat-", ignore_cleanup_errors=True) as temporary:
        made = Path(temporary)
        for name in _CONFIGS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, made / name)
        for file in files:
            _link((folder / file).resolve(), made / file)
        names = {name: info.file for name, info in checkpoint.tensors.items()}
        (made / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}), encoding="utf-8")
        yield made


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError:  # Windows asks for a privilege
        try:
            os.link(source, target)
        except OSError as error:
            raise CheckpointError(
                f"{source} has a name that transformers does not know, and cannot be linked ({error.strerror}); "
                "rename the files as the official checkpoints have them, or use engine='onnx'"
            ) from None
