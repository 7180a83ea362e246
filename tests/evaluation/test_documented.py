"""What docs/evaluate.md shows runs as it stands, on the embedded model."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documented")


def test_every_command_runs_as_it_stands(folder: Path) -> None:
    (code,) = blocks("python")
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    commands = [line for block in blocks("bash") for line in block.splitlines() if line]
    assert len(commands) == 6
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "blip2-chat"
        # Few items: what is held here is that they run.
        arguments = ["2" if arguments[at - 1] == "--limit" else one for at, one in enumerate(arguments)]
        if arguments[0] == "compare" and "--reference" not in arguments:
            arguments += ["--with", "onnx-fp32"]
        done = subprocess.run(
            [sys.executable, "-m", "blip2_chat", *arguments], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_the_presets_are_those_that_exist() -> None:
    from blip2_chat.evaluation.presets import PRESETS

    assert set(re.findall(r"^\| `([\w-]+)`", PAGE, re.MULTILINE)) - {"--vqa", "--gqa", "--captions"} >= set(
        PRESETS
    )
