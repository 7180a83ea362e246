"""Converts an official checkpoint to the folder that the onnx engine loads.

`converted` keeps the result in the user's cache, `convert` writes it where the user says. Either way a folder
appears under its name when it is complete, by one rename; whatever ends a conversion before that (an error, a
full disk, a kill) leaves at most a `.partial` folder that the next one removes.
"""

from __future__ import annotations

import atexit
import dataclasses
import errno
import json
import os
import re
import shutil
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

from ..checkpoint.inspect import AnyCheckpoint
from ..engines.onnx import convert as engine
from ..engines.onnx.manifest import Fidelity, Manifest, Verified
from ..engines.onnx.reference import Sample
from ..engines.onnx.verify import verify
from ..errors import CheckpointError, Parameter
from ..sizes import gigabytes
from ..system.progress import Progress, silent
from ..system.small_files import MANIFEST
from .cache import (
    WAY_OUT,
    CannotWriteError,
    conversions_folder,
    folder_size,
    foreign_file,
    locks_folder,
    partial_of,
    sole_writer,
    sweep,
    unwritable,
    whole,
)
from .calibration import DEFAULT, NONE, Calibration
from .fidelity import fidelity_samples, measured
from .fingerprint import Hashing
from .job import Job, identity

# Beside the weights: graphs, tokenizer, and what the file system itself needs.
_DISK_MARGIN = 32_000_000

_temporary: dict[str, Path] = {}
_temporary_lock = threading.Lock()


def converted(
    checkpoint: AnyCheckpoint,
    precision: str,
    *,
    name: str,
    block_size: int | None = None,
    calibration: Calibration = DEFAULT,
    small: int = 256_000_000,
    on_progress: Progress | None = None,
) -> Verified:
    """The folder of the checkpoint's conversion in the user's cache; converts when it is not there yet.

    While another process converts the same, waits for its result. `name` is how the user calls the model. A model of
    at most `small` bytes is converted into a temporary folder, for this run only, and a warning says so, when the
    cache cannot be written to.
    Raises `CheckpointError`.
    """
    job = Job.of(checkpoint, precision, name, block_size, calibration)
    target = conversions_folder() / job.key
    if found := whole(target):
        return found
    size = job.size()
    tell = on_progress or silent

    def waiting() -> None:
        written = folder_size(partial_of(target))
        # If the folder has its final name, the other process has just finished; no progress, which would
        # begin at 0.
        if written or not target.is_dir():
            tell(f"waiting for another process, which is {job.title}", min(written, size), size)

    try:
        with sole_writer(target, waiting=waiting):
            # Meanwhile the other process may have finished.
            if found := whole(target):
                return found
            sweep(but=target)
            _make(job, target, job.source(is_private=True), WAY_OUT, tell)
            return verify(target)
    except CannotWriteError as error:
        if size > small:
            raise
        return _converted_for_this_run(job, error, tell)


def convert(
    checkpoint: AnyCheckpoint,
    out: str | Path,
    precision: str,
    *,
    name: str,
    block_size: int | None = None,
    force: bool = False,
    calibration: Calibration = DEFAULT,
    check: bool = True,
    on_progress: Progress | None = None,
) -> Path:
    """Converts into the new or empty folder `out`, and returns its absolute path.

    `check`: int8 and int4 are compared with the checkpoint's float32 on a few shipped pictures; the result is in the
    manifest (`fidelity`). `force` replaces an earlier conversion; a folder that holds anything else is never touched.
    Raises `CheckpointError`.
    """
    out = Path(os.path.realpath(Path(out).expanduser()))
    job = Job.of(checkpoint, precision, name, block_size, calibration, check)
    job.size()
    _require_replaceable(out, force)
    with sole_writer(out, locks=_locks_anywhere()):
        _make(job, out, job.source(is_private=False), "name a folder elsewhere", on_progress or silent)
    return out


def _make(job: Job, target: Path, source: dict[str, Any], way_out: str, tell: Progress) -> None:
    """Makes or replaces `target`, whose lock the caller holds."""
    partial = partial_of(target)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        _require_disk(job, target.parent, way_out)
        partial.mkdir()
    except OSError as error:
        raise unwritable(target.parent, error, way_out) from None
    made = partial / "model"
    try:
        samples = _samples(job)
        if job.precision != "fp32":
            source = {**source, "calibration": job.calibration.identity if samples else NONE.identity}
        with Hashing(job.weight_paths()) as hashing:

            def provenance() -> dict[str, Any]:
                while not hashing.wait(0.2):
                    tell(f"hashing {job.name}", hashing.done, hashing.total)
                return {**source, "sha256": hashing.result()}

            engine.convert(
                job.checkpoint,
                made,
                job.precision,
                block_size=job.block_size,
                provenance=provenance,
                progress=lambda what, done, total: tell(
                    f"calibrating {job.name}" if what == engine.CALIBRATING else job.title, done, total
                ),
                how=job.how,
                samples=samples,
            )
        checkpoint = job.checkpoint
        if identity(checkpoint) != job.fingerprint:
            raise CheckpointError(
                f"{job.checkpoint.folder} changed while it was being converted; try again",
                path=job.checkpoint.folder,
            )
        fidelity = _fidelity(job, made, tell)
        if fidelity is not None:
            manifest = dataclasses.replace(Manifest.from_folder(made), fidelity=fidelity)
            (made / MANIFEST).write_text(json.dumps(manifest.to_dict(), indent=2) + "\n", encoding="utf-8")
        _flush(made)
        _put(made, target, partial)
    except OSError as error:
        raise _explain(error, job, target.parent, way_out) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _samples(job: Job) -> list[Sample]:
    """The samples to calibrate with; none without calibration."""
    if job.precision == "fp32" or not job.calibration.is_on:
        return []
    samples = job.calibration.samples(job.checkpoint)
    if not samples:
        warnings.warn(
            f"{job.name} is converted without calibration: its context is shorter than the samples",
            stacklevel=5,
        )
    return samples


def _fidelity(job: Job, made: Path, tell: Progress) -> Fidelity | None:
    """How closely the conversion follows fp32, or None if it is not to be checked."""
    if not job.check or job.precision == "fp32":
        return None
    what = f"comparing {job.precision} with fp32"
    return measured(
        job.checkpoint, made, fidelity_samples(job.checkpoint), lambda done, total: tell(what, done, total)
    )


def _flush(folder: Path) -> None:
    """Syncs the files before their folder gets its final name, in case the power fails."""
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _put(made: Path, target: Path, partial: Path) -> None:
    if target.is_dir():
        # Empty, damaged, or a conversion to replace; Windows cannot rename onto any of them.
        target.rename(partial / "replaced")
    made.rename(target)


def _require_disk(job: Job, folder: Path, way_out: str) -> None:
    size, free = job.size() + _DISK_MARGIN, shutil.disk_usage(folder).free
    if size > free:
        raise CannotWriteError(
            f"{job.title} needs {gigabytes(size)} of disk at {folder}, and {gigabytes(free)} are free; "
            f"free some space, or {way_out}"
        )


def _explain(error: OSError, job: Job, folder: Path, way_out: str) -> CheckpointError:
    # numpy says that a disk is full without an errno: "… requested and … written", "Not enough free space …".
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT) or (
        error.errno is None and re.search(r"written|free space", str(error))
    )
    if is_full:
        return CannotWriteError(
            f"the disk at {folder} became full while {job.title}; free some space, or {way_out}"
        )
    where = f" ({error.filename})" if error.filename else ""
    return CheckpointError(f"{job.title} stopped: {error.strerror or error}{where}")


def _converted_for_this_run(job: Job, why: CannotWriteError, tell: Progress) -> Verified:
    with _temporary_lock:
        folder = _temporary.get(job.key)
        if folder is not None and (found := whole(folder)):
            return found
        try:
            parent = Path(tempfile.mkdtemp(prefix="blip2-chat-"))
        except OSError:
            raise why from None
        # A forked child, which inherits this, must not remove what its parent uses.
        atexit.register(_remove_if_owner, parent, os.getpid())
        # Attributed to the caller of `load`.
        warnings.warn(f"{why}; {job.name} is converted for this run only", stacklevel=5)
        target = parent / job.key
        _make(job, target, job.source(is_private=True), "set TMPDIR to a folder elsewhere", tell)
        _temporary[job.key] = target
        return verify(target)


def _remove_if_owner(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _require_replaceable(out: Path, force: bool) -> None:
    """Raises `CheckpointError` when something at `out` must stay."""
    if os.path.ismount(out):
        raise CheckpointError(
            f"{out} is a disk of its own; name a folder in it, such as {out / 'model'}", path=out
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise CheckpointError(f"{out} exists and is not a conversion; name a new folder", path=out)
    if not force:
        raise CheckpointError(
            f"{out} holds a conversion already; ",
            Parameter("force", True),
            " replaces it, or name a new folder",
            path=out,
        )
    if foreign := foreign_file(out):
        raise CheckpointError(
            f"{out} holds {foreign}, which does not belong to the conversion in it; move that, or name a new folder",
            path=out,
        )


def _locks_anywhere() -> Path:
    """A folder for the lock of a conversion outside of the cache, which need not be writable then."""
    locks = locks_folder()
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / "blip2-chat-locks"
    return locks
