"""`blip2-chat.json`: what a converted folder is, and how to see that it is whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError

MANIFEST = "blip2-chat.json"
# Raised when a folder of the previous format can no longer be loaded.
FORMAT = 3


@dataclass(frozen=True)
class MappedTensor:
    """A weight that stays in its graph's data file while the graph is loaded."""

    name: str
    dtype: str  # numpy's name
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Manifest:
    format: int
    source: dict[str, Any]  # name, revision, hashes: as the caller of `convert` passed them
    precision: str
    block_size: int
    family: str
    graphs: dict[str, tuple[MappedTensor, ...]]  # NAME.onnx, NAME.onnx.data; what of it is mapped
    embeddings_dtype: str
    sizes: dict[str, int]  # every other file of the folder, in bytes

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_folder(cls, folder: Path) -> Manifest:
        """Reads and checks it against the files: `CheckpointError` when one is absent or cut short."""
        path = Path(folder) / MANIFEST
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["format"] != FORMAT:
                raise CheckpointError(
                    f"{folder} was converted for another version of blip2-chat (format {raw['format']}, this one "
                    f"reads {FORMAT}): convert the checkpoint again"
                )
            graphs = {name: tuple(map(_mapped, tensors)) for name, tensors in raw["graphs"].items()}
            manifest = cls(**{**raw, "graphs": graphs})
        except FileNotFoundError:
            raise CheckpointError(f"{folder} has no {MANIFEST}: it is not a converted model") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged: {error!r}") from None
        for name, size in manifest.sizes.items():
            file = Path(folder) / name
            if not file.is_file() or file.stat().st_size != size:
                raise CheckpointError(
                    f"{file} is missing or not {size} bytes long: convert the checkpoint again"
                )
        return manifest


def _mapped(raw: dict[str, Any]) -> MappedTensor:
    return MappedTensor(**{**raw, "shape": tuple(raw["shape"])})
