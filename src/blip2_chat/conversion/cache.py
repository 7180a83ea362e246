"""The user's cache of conversions: its folders, its contents and its locks.

    <cache>/converted/NAME-PRECISION-FINGERPRINT/   a finished conversion
    <cache>/converted/.NAME-….partial/              one being written, or left by a killed process
    <cache>/locks/                                  empty files that processes lock; they stay

A conversion is written under the lock of its name and appears by a rename. The system frees the locks of a
process that dies, so whoever gets the lock of a partial folder knows that nobody is working in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..engines.onnx.manifest import Fidelity, Manifest, Verified
from ..errors import CheckpointError
from ..system.paths import CACHE_VARIABLE, cache_folder
from ..system.small_files import MANIFEST, read_json

WAY_OUT = f"set {CACHE_VARIABLE} to a cache folder elsewhere"
_POLL_SECONDS = 0.2


class CannotWriteError(CheckpointError):
    """A conversion cannot be stored: its folder is not writable, or the disk is full."""


class BusyError(CheckpointError):
    """Another process is converting into the same folder."""


def conversions_folder() -> Path:
    """Where finished conversions lie; it need not exist."""
    return cache_folder() / "converted"


def locks_folder() -> Path:
    """Where the locks lie; it need not exist."""
    return cache_folder() / "locks"


def partial_of(target: Path) -> Path:
    """The folder beside `target` in which it is made."""
    return target.with_name(f".{target.name}.partial")


def whole(folder: Path) -> Verified | None:
    """The finished conversion in `folder`, with all its files as this version would make them; None for any other."""
    from ..engines.onnx.verify import verify  # brings the onnx package

    try:
        return verify(folder)
    except CheckpointError:
        return None


def is_whole(folder: Path) -> bool:
    """Whether `folder` is a finished conversion, see `whole`."""
    return whole(folder) is not None


@contextlib.contextmanager
def sole_writer(
    target: Path, *, waiting: Callable[[], None] | None = None, locks: Path | None = None
) -> Iterator[None]:
    """Holds the lock of `target` against all threads and processes of this machine. While another one has it,
    `waiting` is called several times a second; without `waiting`, raises `BusyError`. Raises `CannotWriteError`
    if locks cannot be created.
    """
    locks = locks or locks_folder()
    key = hashlib.sha256(os.path.normcase(os.path.realpath(target)).encode()).hexdigest()[:24]
    lock = FileLock(locks / f"{key}.lock", timeout=0)
    try:
        locks.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                lock.acquire()
                break
            except Timeout:
                if waiting is None:
                    raise BusyError(f"another process is writing {target} right now", path=target) from None
                waiting()
                time.sleep(_POLL_SECONDS)
    # filelock's error for a file system without locks.
    except (OSError, NotImplementedError) as error:
        raise unwritable(locks.parent, error) from None
    try:
        yield
    finally:
        lock.release()


def unwritable(folder: Path, error: Exception, way_out: str = WAY_OUT) -> CannotWriteError:
    """The one line for a folder that cannot be written to."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CannotWriteError(f"{folder} cannot be written to ({reason}); {way_out}", path=folder)


def sweep(but: Path | None = None) -> None:
    """Removes what killed conversions left in the cache, but not those being written, nor that of `but`, whose
    lock the caller holds."""
    for partial in sorted(conversions_folder().glob(".*.partial")):
        target = partial.with_name(partial.name[1 : -len(".partial")])
        if target != but:
            with contextlib.suppress(BusyError), sole_writer(target):
                shutil.rmtree(partial, ignore_errors=True)


def remove(folder: Path) -> None:
    """Removes a conversion, whose lock the caller holds. It is renamed first, so that no half-removed one has
    its name."""
    partial = partial_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    folder.rename(partial)
    shutil.rmtree(partial)


@dataclass(frozen=True)
class Cached:
    """One conversion in the cache."""

    folder: Path
    source: str  # the hub name, or the folder it was made from
    precision: str
    size: int  # bytes
    is_usable: bool  # whole, and of the format that this version reads
    revision: str | None = None  # the commit, of a hub name
    fidelity: Fidelity | None = None  # how closely it follows fp32, if measured
    adapter: str | None = None  # the name or folder of the merged adapter

    @property
    def title(self) -> str:
        """The model and its adapter, as shown to users."""
        return self.source if self.adapter is None else f"{self.source} with {self.adapter}"

    def is_called(self, name: str) -> bool:
        """Whether `name` is this one's: the model's name, with or without "+" and the adapter's, or that of the
        folder."""
        names = [self.source, self.source.split("@")[0]]
        return name in (self.folder.name, *names, *(f"{one}+{self.adapter}" for one in names))


def cached() -> list[Cached]:
    """What the cache holds, sorted by name."""
    folder = conversions_folder()
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [_cached(entry) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _cached(folder: Path) -> Cached:
    source, precision, revision, fidelity, adapter = "unknown", "?", None, None, None
    with contextlib.suppress(CheckpointError, AttributeError, KeyError, TypeError):
        # Not by `Manifest`, which rightly refuses other formats.
        raw = read_json(folder / MANIFEST)
        precision, source = str(raw["precision"]), str(raw["source"]["name"])
        revision = raw["source"].get("revision")
        if "adapter" in raw["source"]:
            adapter = str(raw["source"]["adapter"]["name"])
    whole = is_whole(folder)
    if whole:
        fidelity = Manifest.from_folder(folder).fidelity
    return Cached(folder, source, precision, folder_size(folder), whole, revision, fidelity, adapter)


def foreign_file(folder: Path) -> str | None:
    """The first file or folder in a conversion's folder that its manifest does not list; None if there is none.
    Raises `CheckpointError` when the manifest cannot be read."""
    raw = read_json(folder / MANIFEST)
    sizes = raw.get("sizes") if isinstance(raw, dict) else None
    known = {MANIFEST, *(sizes if isinstance(sizes, dict) else ())}
    found = sorted(path.name for path in folder.iterdir() if path.name not in known or not path.is_file())
    return found[0] if found else None


def folder_size(folder: Path) -> int:
    """Bytes of the files in `folder`; 0 when it is not there. Files may vanish meanwhile."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += path.stat().st_size
    return size


def clear(name: str | None = None) -> list[Cached]:
    """Removes the conversions of that name, or all, and returns them.

    Raises `CheckpointError` if none has that name, or one is being written or, on Windows, in use.
    """
    chosen = [entry for entry in cached() if name is None or entry.is_called(name)]
    if name is not None and not chosen:
        raise CheckpointError(f"nothing called {name} is cached at {conversions_folder()}")
    for entry in chosen:
        with sole_writer(entry.folder):
            try:
                remove(entry.folder)
            except OSError as error:
                raise CheckpointError(
                    f"{entry.folder} cannot be removed ({error.strerror or error}); is a program using it?",
                    path=entry.folder,
                ) from None
    sweep()
    return chosen
