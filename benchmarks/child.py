"""Measurements in processes of their own: their peaks of memory are only theirs, and so are their failures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from .documents import ROOT

_MARK = "FIGURES "


class Deadline:
    """When a benchmark has to end."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self, reserve: float = 0.0) -> float:
        """Seconds, `reserve` set aside for what comes later; never below 0."""
        return max(0.0, self._end - time.monotonic() - reserve)


def figures_of(
    module: str, *arguments: object, seconds: float, root: Path = ROOT, patience: float = 5
) -> dict[str, Any]:
    """The figures that `python -m benchmarks.MODULE ARGUMENTS` reported with `tell`, within `seconds`.

    A process that fails (a signal included) or takes longer keeps what it had reported until then, and gets a
    figure more: "failed", the reason in a few words. Its stderr goes through. It runs in `root`, and is killed
    `patience` seconds after it was asked to end.
    """
    if seconds <= 0:
        return {"failed": "not measured: no time left"}
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    with tempfile.TemporaryFile() as out:
        failed = run_bounded(command, seconds, out.fileno(), root, patience)
        out.seek(0)
        lines = out.read().decode("utf-8", "replace").splitlines()
    figures: dict[str, Any] = {}
    for line in lines:
        # A process that was killed may have left half a line.
        with contextlib.suppress(json.JSONDecodeError):
            if line.startswith(_MARK):
                figures |= json.loads(line.removeprefix(_MARK))
    if not failed and not figures:
        failed = "no figures"
    return {**figures, "failed": failed} if failed else figures


def run_bounded(
    command: list[str],
    seconds: float,
    stdout: int | None = None,
    root: Path = ROOT,
    patience: float = 5,
) -> str:
    """Runs `command` in `root`; returns why it failed, or "". Its children end with it, and it ends
    with this process (unless that is killed with SIGKILL)."""
    process: subprocess.Popen[bytes] | None = None
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        if process is not None:  # else it is being started: an exception in there would leave it behind
            sys.exit(128 + signal.SIGTERM)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    try:
        process = subprocess.Popen(command, cwd=root, stdout=stdout, start_new_session=True)
        if stopped:
            sys.exit(128 + signal.SIGTERM)
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"longer than {seconds:.0f} s"
    finally:
        if process is not None:
            _end(process, patience)
    if code < 0:
        return f"ended by {signal.Signals(-code).name}{' (out of memory?)' if code == -9 else ''}"
    return f"failed with code {code}" if code else ""


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ends a process and all that it started (on Windows, itself). One that runs processes in sessions of their own
    gets `patience` seconds to end those."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def tell(figures: dict[str, Any]) -> None:
    """Reports figures to the process that started this one; later ones are added, or replace those of the same
    name."""
    print(_MARK + json.dumps(figures), flush=True)


class Kept:
    """Figures on disk as each measurement finishes, so that an interrupted benchmark can be resumed.

    They are used again only if `conditions` (the machine, versions, sizes) are the same.
    """

    def __init__(self, path: Path, conditions: dict[str, Any]) -> None:
        self._path = path
        self._content: dict[str, Any] = {"conditions": conditions, "figures": {}}
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("conditions") == json.loads(json.dumps(conditions)):
                self._content = found

    def get(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._content["figures"].get(name)
        return found

    def put(self, name: str, figures: dict[str, Any]) -> dict[str, Any]:
        """Writes them at once, and returns them."""
        self._content["figures"][name] = figures
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._path)
        return figures
