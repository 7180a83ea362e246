"""Reads a checkpoint's tensors one by one, with numpy only, and says exactly which do not belong.

numpy has no bfloat16; its bits are the upper half of a float32's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...errors import CheckpointError
from ...safetensors_files import FLOATS, read_tensors
from ..engine import Floats

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


class Weights:
    """The tensors of one checkpoint folder; nothing is read until `read`."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._tensors = read_tensors(self.folder)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def check(self, expected: dict[str, tuple[int, ...]]) -> None:
        """`CheckpointError` naming every tensor that is missing, misshapen, or belongs to something else."""
        missing = sorted(expected.keys() - self._tensors.keys())
        if missing:
            raise CheckpointError(f"{self.folder}: the checkpoint lacks {_list(missing)}")
        misshapen = [
            f"{name} is {list(self._tensors[name].shape)}, config.json says {list(shape)}"
            for name, shape in expected.items()
            if self._tensors[name].shape != shape
        ]
        if misshapen:
            raise CheckpointError(f"{self.folder}: {_list(misshapen)}")
        foreign = [
            f"{n} ({self._tensors[n].dtype})" for n in expected if self._tensors[n].dtype not in FLOATS
        ]
        if foreign:
            raise CheckpointError(
                f"{self.folder}: weights must be float32, float16 or bfloat16; not so {_list(foreign)}"
            )
        unexpected = sorted(
            name for name in self._tensors.keys() - expected.keys() if not _IGNORED.fullmatch(name)
        )
        if unexpected:
            raise CheckpointError(
                f"{self.folder}: the checkpoint has tensors of another model: {_list(unexpected)}"
            )

    def read(self, name: str) -> Floats:
        """One tensor as float32, freshly read: the caller owns the only copy."""
        tensor = self._tensors[name]
        path = self.folder / tensor.file
        # Not memory-mapped: mapped pages would stay resident beyond the tensor's use.
        with path.open("rb") as file:
            file.seek(tensor.offset)
            raw = np.fromfile(file, np.uint8, tensor.nbytes)
        if raw.nbytes != tensor.nbytes:
            raise CheckpointError(f"{path} ends inside {name}: it is cut off")
        values = _to_float32(raw, tensor.dtype).reshape(tensor.shape)
        if not np.isfinite(values).all():
            raise CheckpointError(f"{path}: {name} holds values that are not numbers")
        return values


def _to_float32(raw: np.ndarray, dtype: str) -> Floats:
    if dtype == "F32":
        return raw.view(np.float32)
    if dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    wide = raw.view(np.uint16).astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _list(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
