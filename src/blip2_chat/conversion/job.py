"""One conversion: what it is made from, what it is called in the cache, and what its manifest says of the source."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .._version import __version__
from ..checkpoint.embedded import is_embedded
from ..checkpoint.inspect import AnyCheckpoint
from ..engines.onnx import convert as engine
from ..engines.onnx.manifest import FORMAT, Precision
from ..errors import CheckpointError
from .calibration import Calibration
from .fingerprint import adapter_hashes, fingerprint, hub_commit, hub_name


@dataclass(frozen=True)
class Job:
    """A checkpoint, and how to convert it."""

    checkpoint: AnyCheckpoint
    precision: Precision
    block_size: int
    name: str  # the name that the user gave
    fingerprint: str
    calibration: Calibration
    how: engine.Schemes | None  # other schemes than the precision's own
    check: bool = True  # compare the result with float32

    @classmethod
    def of(
        cls,
        checkpoint: AnyCheckpoint,
        precision: str,
        name: str,
        block_size: int | None,
        calibration: Calibration,
        check: bool = True,
    ) -> Job:
        if checkpoint.kind == "converted":
            raise CheckpointError(
                f"{checkpoint.folder} is converted already; name the checkpoint that it was made from",
                path=checkpoint.folder,
            )
        made_of = identity(checkpoint)
        # `size` checks the name against the engine's list.
        kind = cast(Precision, precision)
        # A given block size means blocks.
        how = None if block_size else engine.schemes_here(kind)
        block_size = block_size or engine.BLOCK_SIZES.get(kind, 0)
        return cls(checkpoint, kind, block_size, name, made_of, calibration, how, check)

    @property
    def key(self) -> str:
        """The name of the folder in the cache."""
        # The format is part of it, so that versions with different formats keep conversions of their own.
        made_of = f"{self.fingerprint} {FORMAT} {self.block_size}"
        if self.precision != "fp32":
            made_of += f" {self.calibration.identity}"
        if self.how is not None:
            made_of += f" {self.how}"
        digest = hashlib.sha256(made_of.encode()).hexdigest()[:12]
        has_name = is_embedded(self.name) or hub_commit(self.checkpoint.folder)
        name = self.name.split("@")[0] if has_name else self.checkpoint.folder.resolve().name
        if self.checkpoint.adapter is not None:
            name += f"-{self.checkpoint.adapter.folder.resolve().name}"
        # Short: Windows allows paths of 260 characters.
        readable = re.sub(r"[^\w.-]+", "-", name.replace("/", "--"), flags=re.ASCII).strip("-.")[:40]
        return f"{readable or 'model'}-{self.precision}-{digest}"

    @property
    def title(self) -> str:
        """The progress message."""
        adapter = self.checkpoint.adapter
        merged = "" if adapter is None else f" with {adapter.folder.resolve().name}"
        return f"converting {self.name}{merged} to {self.precision}"

    def size(self) -> int:
        """The approximate bytes of the result. `CheckpointError` for a precision or block size that does not
        exist."""
        try:
            planned = engine.plan(
                self.checkpoint.config,
                self.precision,
                self.block_size,
                tied_head=self.checkpoint.tied_head,
                how=self.how,
            )
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        return planned.nbytes

    def source(self, is_private: bool) -> dict[str, Any]:
        """The manifest's entry about the checkpoint; its path on this disk is included only if `is_private`."""
        commit = hub_commit(self.checkpoint.folder)
        folder = self.checkpoint.folder.resolve()
        is_path = commit is None and not is_embedded(self.name)
        own_name = (str(folder) if is_private else folder.name) if is_path else self.name
        return {
            "name": own_name,
            "revision": commit,
            "blip2_chat": __version__,
            **self._adapter_source(is_private),
        }

    def _adapter_source(self, is_private: bool) -> dict[str, Any]:
        """The same of the adapter: its name on the hub or its folder, and the hash of its weights."""
        adapter = self.checkpoint.adapter
        if adapter is None:
            return {}
        folder = adapter.folder.resolve()
        snapshot = hub_name(adapter.folder)
        name = snapshot or (str(folder) if is_private else folder.name)
        return {"adapter": {"name": name, "sha256": adapter_hashes(adapter)[1]}}

    def weight_paths(self) -> list[Path]:
        return [self.checkpoint.folder / file for file in self.checkpoint.weight_files]


def identity(checkpoint: AnyCheckpoint) -> str:
    return fingerprint(checkpoint.folder, checkpoint.weight_files, checkpoint.processor, checkpoint.adapter)
