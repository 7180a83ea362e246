"""Connecting to a Ray cluster, or starting one on this machine: in silence, and without Ray's telemetry."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from ..errors import Blip2ChatError, MissingExtraError

# Set before Ray is imported; what is in the environment already is the user's own.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # reports to Ray's makers
    # Under `uv run`, Ray would pack the working directory and send it to every machine.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning about a change to come
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
# Ray's own processes have half a minute to start, which a busy machine may need twice.
_ATTEMPTS = 3


class ClusterError(Blip2ChatError):
    """A Ray cluster cannot be reached, or does not hold what is asked of it."""


def imported(what: str) -> Any:
    """The module ray; `MissingExtraError` for `what` where it is not installed."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise MissingExtraError(what, "ray") from None
    return ray


def connect(ray: Any, address: str) -> None:
    """`address`: "local" starts Ray on this machine, "auto" is the cluster that this machine is part of; otherwise
    HOST:PORT or ray://HOST:PORT. Raises `ClusterError`."""
    _require_reachable(address)
    attempts = _ATTEMPTS if address == "local" else 1
    for attempt in range(1, attempts + 1):
        try:
            _init(ray, address)
            return
        except Exception as error:  # Ray raises a bare Exception if a slow machine does not start it in time
            if attempt == attempts:
                raise ClusterError(f"Ray at {address!r} cannot be reached ({_first_line(error)})") from error
            ray.shutdown()


def _init(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        ray.init(include_dashboard=False, **quiet)
    else:
        ray.init(address=address, **quiet)


def _require_reachable(address: str) -> None:
    """Raises `ClusterError` if nothing listens at HOST:PORT, because Ray would retry for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise ClusterError(
            f"Ray at {address!r} cannot be reached ({reason}); check the address, and `ray status` there"
        ) from error


def models_that_fit(ray: Any, cpus: float, gpus: float, spared: float = 0) -> int:
    """How many models the cluster holds with so many cores and GPUs each, if `spared` cores are left for others;
    0 if not even one fits."""
    has = ray.cluster_resources()
    by_cpu = int((has.get("CPU", 1) - spared) / cpus) if cpus else 1 << 30
    by_gpu = int(has.get("GPU", 0) / gpus) if gpus else 1 << 30
    return max(0, min(by_cpu, by_gpu, 1024))


def loading_of_one(loading: dict[str, Any], cpus: float) -> dict[str, Any]:
    """`load`'s arguments for one of several models, limited to its own cores instead of all of its machine."""
    return {**loading, "threads": loading.get("threads") or max(1, int(cpus))}


def _first_line(error: BaseException) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return "".join(c if c.isprintable() else "?" for c in line[:200])
