"""What docs/evaluate.md shows runs as it stands, on the embedded model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blip2_chat.cli import app
from blip2_chat.evaluation.presets import PRESETS

PAGE = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_every_command_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(code, {})
    commands = [line for block in blocks("bash") for line in block.splitlines() if line]
    assert len(commands) == 6
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "blip2-chat"
        # Few items: what is held here is that they run.
        arguments = ["2" if arguments[at - 1] == "--limit" else one for at, one in enumerate(arguments)]
        if arguments[0] == "compare" and "--reference" not in arguments:
            arguments += ["--with", "onnx-fp32"]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert done.stdout.strip()


def test_the_presets_are_those_that_exist() -> None:
    assert set(re.findall(r"^\| `([\w-]+)`", PAGE, re.MULTILINE)) - {"--vqa", "--gqa", "--captions"} >= set(
        PRESETS
    )
