"""The commands of README.md and docs/search.md, as they stand, on the sample pictures with the embedded model."""

from __future__ import annotations

from tests.support.extras import require

require("test-search")

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blip2_chat.checkpoint.embedded import EMBEDDED_RETRIEVER, embedded_folder
from blip2_chat.errors import CheckpointError

ROOT = Path(__file__).parents[2]
ABOUT_INDEXES = re.compile(r"^blip2-chat (?:index|search) .*", re.MULTILINE)

try:
    embedded_folder(EMBEDDED_RETRIEVER)
except CheckpointError:
    pytest.skip(f"{EMBEDDED_RETRIEVER} is not here yet", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`samples` and `photos`, both with the sample pictures."""
    folder = tmp_path_factory.mktemp("documented")
    for name in ("samples", "photos"):
        shutil.copytree(ROOT / "samples", folder / name)
    binaries = folder / "bin"
    binaries.mkdir()
    command = binaries / "blip2-chat"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m blip2_chat "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return folder


def run(folder: Path, command: str) -> str:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("document", ["README.md", "docs/search.md"])
def test_every_command_runs_as_it_stands(folder: Path, document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    commands = [one for one in ABOUT_INDEXES.findall(text) if "Salesforce/" not in one]
    assert len(commands) >= 2
    for command in commands:
        out = run(folder, command)
        if command.startswith("blip2-chat search"):
            assert out.count(".png") >= 3


def test_a_dog_is_found_among_the_samples(folder: Path) -> None:
    run(folder, "blip2-chat index samples --out dogs.index")
    found = run(folder, 'blip2-chat search dogs.index "a dog" --top 1')
    assert "dog" in Path(found.split(maxsplit=1)[1].strip()).name


def test_the_piece_of_python_runs_as_it_stands(folder: Path) -> None:
    text = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    run(folder, "blip2-chat index photos/ --out photos.index")
    (folder / "example.py").write_text(code, encoding="utf-8")
    assert run(folder, f'"{sys.executable}" example.py').count(".png") == 5
