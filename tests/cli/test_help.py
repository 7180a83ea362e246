"""Help texts: what they import, and how they are laid out."""

from __future__ import annotations

import re
import subprocess
import sys

import typer.main
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app


def test_help_imports_nothing_heavy() -> None:
    heavy = ["numpy", "PIL", "tokenizers", "onnxruntime", "torch", "httpx", "huggingface_hub", "safetensors"]
    for arguments in (["--help"], ["ask", "--help"], ["evaluate", "--help"]):
        code = (
            "import sys\nfrom blip2_chat.cli import app\n"
            f"try: app({arguments!r})\nexcept SystemExit: pass\n"
            f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])"
        )
        output = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        assert "Usage: " in output
        assert output.splitlines()[-1] == "HEAVY []"


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"blip2-chat {blip2_chat.__version__}\n")


def test_help_puts_options_into_groups_that_fit_80_columns() -> None:
    shown = CliRunner().invoke(app, ["run", "--help"], terminal_width=80).stdout
    assert "Usage: blip2-chat run [OPTIONS] SOURCE...\n" in shown
    headings = re.findall(r"^(\w[\w ]*):$", shown, re.MULTILINE)
    assert headings[0] == "Arguments" and headings[-1] == "Other options"
    assert {"Input", "Output", "Text generation", "Model", "Ray clusters"} <= set(headings)
    output = shown.split("\nOutput:\n")[1].split("\n\n")[0]
    assert "--sidecar TYPE" in output and "--beams" not in output
    assert max(map(len, shown.splitlines())) <= 80


def test_summaries_of_commands_are_whole() -> None:
    shown = CliRunner().invoke(app, ["--help"], terminal_width=80).stdout
    summaries = re.findall(r"^  ([a-z]+)  +([A-Z].*)$", shown.split("Commands:\n")[1], re.MULTILINE)
    assert {name for name, _ in summaries} == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert all(summary.endswith(".") and not summary.endswith("...") for _, summary in summaries)
