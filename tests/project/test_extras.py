"""The tests of the core need nothing but the core: the others skip themselves, in one line that names the extra."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import extras

# Stands in for an environment of the core alone: the packages of the extras are not to be found.
_WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Core(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Core
import pytest
sys.exit(pytest.main(["-q", "--collect-only", "-r", "s", "-n0", "-p", "no:cacheprovider", *{disabled!r}]))
"""


@pytest.mark.slow
def test_without_the_extras_every_other_module_skips_itself() -> None:
    absent = {name for names in extras.PACKAGES.values() for name in names} | {"starlette", "pandas"}
    disabled = ["-p", "no:schemathesis"]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    collected = subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(absent=absent, disabled=disabled)],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert collected.returncode == 0, collected.stdout[-3000:]
    for extra in extras.PACKAGES:
        assert f"needs the extra [{extra}]: no " in collected.stdout
