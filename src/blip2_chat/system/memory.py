"""Memory: what this machine can still give, and what this process has held. All sizes are bytes."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def available_memory() -> int:
    """Bytes this process can still take without swapping, container limits respected.

    `sys.maxsize` where the system does not tell: an unknown amount refuses nothing.
    """
    if sys.platform == "win32":
        return _windows()
    if sys.platform == "darwin":
        return _macos(_output("vm_stat"))
    return min([*_linux(Path("/"))], default=sys.maxsize)


def _linux(root: Path) -> Iterator[int]:
    """What the machine has, and what each enclosing control group leaves."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    if found:
        yield int(found[1]) * 1024
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


def _macos(vm_stat: str) -> int:
    """From `vm_stat`: free, inactive and speculative pages are handed out without swapping."""
    page = re.search(r"page size of (\d+) bytes", vm_stat)
    pages = re.findall(r"^Pages (?:free|inactive|speculative):\s+(\d+)", vm_stat, re.MULTILINE)
    return int(page[1]) * sum(map(int, pages)) if page and pages else sys.maxsize


class _MemoryStatus(ctypes.Structure):
    """Windows' MEMORYSTATUSEX."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("available", ctypes.c_uint64),
        ("total_page_file", ctypes.c_uint64),
        ("available_page_file", ctypes.c_uint64),
        ("total_virtual", ctypes.c_uint64),
        ("available_virtual", ctypes.c_uint64),
        ("available_extended", ctypes.c_uint64),
    )


def _windows() -> int:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    # `windll` exists on Windows only, for the type checker too.
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009
    return int(status.available) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else sys.maxsize


def _output(command: str) -> str:
    """What a system command prints; empty when it cannot be run."""
    try:
        return subprocess.run([command], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


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
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    if sys.platform == "win32":
        return _windows_peak()
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


class _Counters(ctypes.Structure):
    """Windows' PROCESS_MEMORY_COUNTERS."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak_working_set", ctypes.c_size_t),
        ("rest", ctypes.c_size_t * 7),
    )


def _windows_peak() -> int:
    counters = _Counters(size=ctypes.sizeof(_Counters))
    # `windll` exists on Windows only, for the type checker too.
    library = getattr(ctypes, "windll")  # noqa: B009
    process = ctypes.c_void_p(library.kernel32.GetCurrentProcess())
    told = library.psapi.GetProcessMemoryInfo(process, ctypes.byref(counters), counters.size)
    return int(counters.peak_working_set) if told else 0
