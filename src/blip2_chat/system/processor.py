"""What the processor has instructions for, as far as the system tells."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

# What the fast kernels of both engines ask for: x86's names, then ARM's, as Linux spells them.
_FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm",
)  # fmt: skip
_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
_MACOS_INTEL = {"avx512vnni": "avx512_vnni", "avx512f": "avx512f", "avx2": "avx2"}
_MACOS_ARM = {"AdvSIMD": "asimd", "FEAT_DotProd": "asimddp", "FEAT_I8MM": "i8mm"}


@lru_cache(maxsize=1)
def features() -> tuple[str, ...]:
    """Those of `_FEATURES` that this processor has; empty where the system does not tell (Windows)."""
    if sys.platform == "darwin":
        if platform.machine() == "x86_64":
            leaf = output_of("sysctl", "-n", "machdep.cpu.leaf7_features").lower().split()
            return tuple(feature for name, feature in _MACOS_INTEL.items() if name in leaf)
        return tuple(
            feature
            for name, feature in _MACOS_ARM.items()
            if output_of("sysctl", "-n", f"hw.optional.arm.{name}") == "1"
        )
    listed = re.search(r"^(?:flags|Features)\s*: (.+)", cpuinfo(), re.MULTILINE)
    return tuple(feature for feature in _FEATURES if listed and feature in listed[1].split())


def lacks_vnni() -> bool:
    """An x86 processor that has AVX2, and no instruction for sums of products of bytes. False where that is not
    known."""
    return "avx2" in features() and not _VNNI.intersection(features())


def cpuinfo() -> str:
    """Linux's description of the processor; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def output_of(*command: str) -> str:
    """What a system command prints; empty when it cannot be run."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
