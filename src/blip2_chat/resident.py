"""How much memory this process has held at most."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path


def peak_memory() -> int:
    """Bytes of the largest resident set so far; 0 where the system does not tell.

    On Linux of this program alone: `getrusage` counts what the parent held when it started this one.
    """
    if sys.platform == "linux":
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    if sys.platform == "win32":
        return _windows()
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


def _windows() -> int:
    counters = _Counters(size=ctypes.sizeof(_Counters))
    # `windll` exists on Windows only, for the type checker too.
    library = getattr(ctypes, "windll")  # noqa: B009
    process = ctypes.c_void_p(library.kernel32.GetCurrentProcess())
    told = library.psapi.GetProcessMemoryInfo(process, ctypes.byref(counters), counters.size)
    return int(counters.peak_working_set) if told else 0
