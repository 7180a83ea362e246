"""Finds and removes conversions whose checkpoint is gone, which nothing can load any more."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.embedded import is_embedded
from ..checkpoint.hub import is_hub_name
from ..errors import CheckpointError
from .cache import BusyError, Cached, conversions_folder, foreign_file, remove, sole_writer

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Kept:
    """A conversion that was not removed, and why."""

    entry: Cached
    reason: str


def is_orphan(entry: Cached) -> bool:
    """Whether what a conversion was made from is gone: the checkpoint's folder or its snapshot in the hub's cache, or
    the folder of its adapter.

    False where that is not known: for an embedded model, and for a conversion whose manifest cannot be read.
    """
    if entry.adapter is not None and os.path.isabs(entry.adapter) and not os.path.lexists(entry.adapter):
        return True
    if is_embedded(entry.source):
        return False
    if os.path.isabs(entry.source):
        return not os.path.lexists(entry.source)
    name = entry.source.partition("@")[0]
    # Anything but a commit could lead out of the cache.
    if not is_hub_name(name) or not isinstance(entry.revision, str) or not _COMMIT.fullmatch(entry.revision):
        return False
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots" / entry.revision
    return not folder.is_dir()


def prune(entries: Iterable[Cached]) -> tuple[list[Cached], list[Kept]]:
    """Removes conversions whose checkpoint is gone -> those removed, and those that were left where they are: in use,
    being written, holding files that are no part of a conversion, or not removable."""
    removed: list[Cached] = []
    kept: list[Kept] = []
    for entry in entries:
        reason = _remove_unless(entry)
        if reason is None:
            removed.append(entry)
        else:
            kept.append(Kept(entry, reason))
    return removed, kept


def _remove_unless(entry: Cached) -> str | None:
    """Removes a conversion; returns the reason if it must stay."""
    try:
        with sole_writer(entry.folder):
            # Checked now, because it may have changed since the user was asked.
            if not is_orphan(entry):
                return "its checkpoint is there again"
            if foreign := _foreign(entry.folder):
                return f"it holds {foreign}, which is not part of a conversion"
            if _is_in_use(entry.folder):
                return "a program is using it"
            remove(entry.folder)
    except BusyError:
        return "another process is writing it"
    except (CheckpointError, OSError) as error:
        return f"it cannot be removed ({getattr(error, 'strerror', None) or error})"
    return None


def _foreign(folder: Path) -> str | None:
    """What does not belong to the conversion: a file that its manifest does not list, or a link to another
    folder."""
    if folder.is_symlink() or folder.parent != conversions_folder():
        return f"a link to {os.path.realpath(folder)}"
    return foreign_file(folder)


def _is_in_use(folder: Path) -> bool:
    """Whether a process has a file of the folder mapped or open.

    Known on Linux, for the processes that this user may inspect. Windows refuses to rename such a folder; elsewhere
    a program keeps what it has mapped.
    """
    if sys.platform != "linux":
        return False
    inside = os.path.realpath(folder) + os.sep
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(inside) in (process / "maps").read_bytes():
                return True
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor).startswith(inside):
                        return True
    return False
