"""Identifies the checkpoint of a conversion: a cheap fingerprint at every load, a full hash when converting."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ..checkpoint.adapters import FILES, Adapter
from ..errors import CheckpointError
from ..system.small_files import QFORMER_TOKENIZER, SETTINGS

_SAMPLES, _SAMPLE_BYTES = 16, 4096
_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fingerprint(
    folder: Path,
    weight_files: Sequence[str],
    processor: Path | None = None,
    adapter: Adapter | None = None,
    hashed_up_to: int = 64_000_000,
) -> str:
    """64 hex digits that change when the checkpoint in `folder` does, in milliseconds for any size.

    The small files count by content. Weights count by the hash that the hub's cache names them by, or, when
    small, by their content; larger ones by size, modification time and a few kilobytes spread over the file
    (times alone are equal in unpacked archives that normalise them).
    Weights of `hashed_up_to` bytes in all are small: they are hashed at every load (0.1 s), so that a package
    upgraded with another embedded model of the same shape, and so the same size, is never taken for the old one.
    `processor` is where the small files other than the configurations are, if not in `folder`. The files of `adapter`
    count by content.
    Moving or renaming the folder changes nothing. `CheckpointError` when a file cannot be read.
    """
    try:
        digest = hashlib.sha256()
        for name in (*SETTINGS, QFORMER_TOKENIZER):
            is_models = name in ("config.json", "generation_config.json")
            path = (folder if is_models or processor is None else processor) / name
            if path.is_file():
                digest.update(json.dumps([name, sha256(path)]).encode())
        is_small = sum((folder / name).stat().st_size for name in weight_files) <= hashed_up_to
        for name in weight_files:
            path = folder / name
            identity = hub_hash(path) or (sha256(path) if is_small else _outline(path))
            digest.update(json.dumps([name, identity]).encode())
        if adapter is not None:
            digest.update(json.dumps(["adapter", *adapter_hashes(adapter)]).encode())
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or folder} cannot be read: {error.strerror or error}"
        ) from None
    return digest.hexdigest()


def adapter_hashes(adapter: Adapter) -> list[str]:
    """The sha256 of the files of an adapter: its settings, and its weights. Raises `OSError`."""
    return [hub_hash(adapter.folder / name) or sha256(adapter.folder / name) for name in FILES]


def hub_hash(path: Path) -> str | None:
    """The sha256 by which the hub's cache stores this file; None for files that it does not hold."""
    if not path.is_symlink():
        return None
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None


def hub_commit(folder: Path) -> str | None:
    """The commit of a snapshot in the hub's cache that the folder is, or is in; None for any other folder."""
    for place in (folder.absolute(), *folder.absolute().parents):
        if place.parent.name == "snapshots" and _COMMIT.fullmatch(place.name):
            return place.name
    return None


def hub_name(folder: Path) -> str | None:
    """`org/name` of a snapshot in the hub's cache that the folder is, or is in; None for any other folder."""
    for place in (folder.absolute(), *folder.absolute().parents):
        if place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--"):
            return place.parent.parent.name.removeprefix("models--").replace("--", "/")
    return None


def sha256(path: Path) -> str:
    """The hash of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _outline(path: Path) -> str:
    status = path.stat()
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
    with path.open("rb", buffering=0) as file:
        for number in range(_SAMPLES):
            file.seek(max(0, status.st_size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


class Hashing:
    """Hashes files in a thread of its own, while a `with` block converts them.

    Hashing lets other threads run, and its pass over a file is the read-ahead of the conversion, which reads
    the same pages in another order a moment later: where memory can hold the file, the disk is read once.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.total = sum(path.stat().st_size for path in paths)
        self.done = 0
        self._paths = paths
        self._hashes: dict[str, str] = {}
        self._error: OSError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="blip2-chat hashing", daemon=True)

    def __enter__(self) -> Hashing:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def wait(self, seconds: float) -> bool:
        """Whether all is hashed, after at most `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> dict[str, str]:
        """File name -> sha256. `CheckpointError` for a file that cannot be read, or is not what the hub sent."""
        self._thread.join()
        if self._error is not None:
            where = self._error.filename or self._paths[len(self._hashes)]
            raise CheckpointError(
                f"{where} cannot be read: {self._error.strerror or self._error}", path=where
            )
        for path in self._paths:
            promised = hub_hash(path)
            if promised not in (None, self._hashes[path.name]):
                raise CheckpointError(
                    f"{path} is damaged: its content is not what the hub sent; delete {path.resolve()} "
                    "and load the model again to fetch it",
                    path=path,
                )
        return self._hashes

    def _run(self) -> None:
        buffer = memoryview(bytearray(_CHUNK))
        try:
            for path in self._paths:
                digest = hashlib.sha256()
                with path.open("rb", buffering=0) as file:
                    while count := file.readinto(buffer):
                        if self._stopped.is_set():
                            return
                        digest.update(buffer[:count])
                        self.done += count
                self._hashes[path.name] = digest.hexdigest()
        except OSError as error:
            self._error = error
