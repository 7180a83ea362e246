"""Measurements in processes of their own, so that their peaks of memory are theirs only."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from .documents import ROOT

_MARK = "FIGURES "


def figures_of(module: str, *arguments: object) -> dict[str, Any]:
    """What `python -m benchmarks.MODULE ARGUMENTS` told with `tell`; its errors go through."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    out = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    line = next(line for line in reversed(out.splitlines()) if line.startswith(_MARK))
    result: dict[str, Any] = json.loads(line.removeprefix(_MARK))
    return result


def tell(figures: dict[str, Any]) -> None:
    """For the process that started this one."""
    print(_MARK + json.dumps(figures))
