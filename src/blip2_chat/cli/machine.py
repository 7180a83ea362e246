"""Facts about this machine and installation, each found without importing torch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import CheckpointError
from ..images.naming import url_name
from ..installation import install_command
from ..sizes import gigabytes
from ..system.memory import available_memory, total_memory
from ..system.processor import cpuinfo, features, output_of

_PACKAGES = ("numpy", "pillow", "onnxruntime", "tokenizers", "huggingface_hub")
_OPTIONAL = ("torch", "transformers", "accelerate", "bitsandbytes", "pillow-heif")
_ENVIRONMENT = (
    "BLIP2_CHAT_MODEL",
    "BLIP2_CHAT_RETRIEVER",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
)


def facts() -> dict[str, Any]:
    """Name -> value (text, list of texts, or table), in the order to show them."""
    found: dict[str, Callable[[], Any]] = {
        "blip2-chat": lambda: __version__,
        "python": lambda: f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform,
        "packages": lambda: _versions(_PACKAGES),
        "optional": lambda: _versions(_OPTIONAL),
        "cpu": _cpu,
        "cpu features": lambda: list(features()) or "not told by this system",
        "cores": _cores,
        "memory": _memory,
        "gpu": lambda: _gpu() or "none found",
        "engines": _engines,
        "embedded model": _embedded,
        "hub cache": _hub_cache,
        "conversions": _conversions,
        "environment": lambda: _environment() or "-",
    }
    return {name: _safely(find) for name, find in found.items()}


def _safely(find: Callable[[], Any]) -> Any:
    """A report with a gap is better than none. The user's name is not in it."""
    try:
        value = find()
    except Exception as error:
        value = f"unknown ({type(error).__name__}: {error})"
    return _without_home(value)


def _without_home(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_home(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_home(one) for one in value]
    return value.replace(str(Path.home()), "~") if isinstance(value, str) else value


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "-"
    return found


def _cpu() -> str:
    if sys.platform == "darwin":
        return output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    named = re.search(r"^model name\s*: (.+)", cpuinfo(), re.MULTILINE)
    return f"{named[1] if named else platform.processor() or 'unknown'} ({platform.machine()})"


def _cores() -> str:
    total = os.cpu_count() or 1
    # A container or `taskset` may allow fewer than there are.
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else total
    return f"{usable} usable of {total}"


def _memory() -> str:
    total, available = total_memory(), available_memory()
    of = f" of {gigabytes(total)}" if total else ""
    return f"{gigabytes(available) if available != sys.maxsize else 'unknown'} available{of}"


def _gpu() -> list[str]:
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return ["Apple GPU (mps)"]
    query = "--query-gpu=name,memory.total,memory.free,driver_version"
    return [
        "{} {} ({} free), driver {}".format(*re.split(r",\s*", line))
        for line in output_of("nvidia-smi", query, "--format=csv,noheader").splitlines()
        if line.count(",") == 3
    ]


def _engines() -> dict[str, str]:
    torch = all(find_spec(name) for name in ("torch", "transformers"))
    return {
        "onnx": _onnx(),
        "torch": "installed" if torch else f"not installed ({install_command('torch')})",
    }


def _onnx() -> str:
    # Imported for real: on Windows a missing system library shows only then.
    try:
        import onnxruntime
    except ImportError as error:
        return f"broken ({error})"
    return f"works ({', '.join(onnxruntime.get_available_providers())})"


def _embedded() -> str:
    from ..checkpoint.embedded import EMBEDDED, embedded_models
    from ..checkpoint.inspect import find, inspect_any

    told = []
    for name in embedded_models():
        try:
            checkpoint = inspect_any(find(name))
            state = f"complete, {checkpoint.total_parameters / 1e6:.1f} million parameters"
        except CheckpointError as error:
            state = f"damaged: {error}"
        told.append(state if name == EMBEDDED else f"{name} {state}")
    return "; ".join(told)


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return _folder(Path(HF_HUB_CACHE))


def _conversions() -> str:
    from ..conversion.cache import conversions_folder

    return _folder(conversions_folder())


def _folder(folder: Path) -> str:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = gigabytes(shutil.disk_usage(there).free)
    return f"{folder}{'' if folder.exists() else ' (not there yet)'}, {free} free"


def _environment() -> dict[str, str]:
    set_here = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {name: url_name(value) if "://" in value else value for name, value in set_here.items()}
