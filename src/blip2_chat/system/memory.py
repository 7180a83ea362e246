"""Memory: what this machine can still give, and what this process has held. All sizes are bytes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path


def available_memory() -> int:
    """Bytes this process can still take without swapping, container limits respected.

    `sys.maxsize` where the system does not tell: an unknown amount refuses nothing.
    """
    machine = _machine("available") or sys.maxsize
    return min([machine, *group_limits(Path("/"))]) if sys.platform == "linux" else machine


def total_memory() -> int | None:
    """Bytes of memory that this machine has; None where the system does not tell."""
    return _machine("total")


def _machine(what: str) -> int | None:
    import psutil  # a hundredth of a second, which `--help` need not wait for

    try:
        return int(getattr(psutil.virtual_memory(), what))
    except (psutil.Error, OSError, RuntimeError, ValueError, NotImplementedError):
        return None


def group_limits(root: Path) -> Iterator[int]:
    """What each Linux control group around this process leaves, which psutil does not count. `root`: of the system's
    files."""
    mounts = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            # Version 2; beside version 1 it is mounted one folder down.
            for mount in (mounts, mounts / "unified"):
                yield from _group_limits(mount, group, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _group_limits(mounts / "memory", group, *names)


def _group_limits(mount: Path, group: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    """Bytes left in a group and in those around it.

    In a container the path is often the host's and the limit is at the mount itself, which comes last.
    """
    parts = [part for part in group.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:depth])
        most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
        # "max" and, in version 1, a number near 2**63 mean that there is no limit.
        if not most.isdigit() or not used.isdigit() or int(most) >= 1 << 60:
            continue
        # The kernel gives file cache back before it refuses memory.
        found = re.search(rf"^{reclaimable} (\d+)", _text(folder / "memory.stat"), re.MULTILINE)
        yield max(0, int(most) - max(0, int(used) - int(found[1] if found else 0)))


def _text(path: Path) -> str:
    """A small system file; empty when it is absent or may not be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def peak_memory() -> int:
    """Bytes of the largest resident set so far; 0 where the system does not tell.

    On Linux of this program alone: `getrusage` counts what the parent held when it started this one.
    """
    if sys.platform == "linux":
        found = re.search(r"^VmHWM:\s+(\d+) kB", _text(Path("/proc/self/status")), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
