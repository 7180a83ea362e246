"""`blip2-chat convert` and `blip2-chat cache`, as a user types them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import blip2_chat
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.cli import app
from blip2_chat.conversion.convert import converted
from blip2_chat.engines.onnx.manifest import Manifest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def megabytes(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.0f} MB"


def test_convert_says_where_how_large_and_what_next(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "my model"
    result = run("convert", checkpoint(), out, "--precision", "int4", "--block-size", 32)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out.resolve()}\n"
    manifest = Manifest.from_folder(out)
    assert (manifest.precision, manifest.block_size) == ("int4", 32)
    size, fidelity, advice = result.stderr.splitlines()
    assert fidelity.startswith("int4 follows fp32: ")
    assert size.startswith(f"{checkpoint()} at int4: {megabytes(out)} in ") and size.endswith(" s")
    assert advice.startswith("Talk with it: blip2-chat chat photo.jpg --model ")
    # The name has a space: what is printed is one argument to the shell of this system.
    assert shlex.split(advice, posix=sys.platform != "win32")[-1].strip('"') == str(out)
    assert blip2_chat.load(out).name == str(out)


def test_convert_refuses_in_one_line(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("convert", checkpoint(), out).exit_code == 0
    assert Manifest.from_folder(out).precision == "int8"
    for arguments, reason in (
        ((checkpoint(), out), "--force"),
        ((out, tmp_path / "again"), "converted already"),
        ((checkpoint(), tmp_path / "new", "--precision", "int5"), "int5"),
        ((checkpoint(), tmp_path / "new", "--block-size", 33), "block_size"),
        ((tmp_path / "nowhere", tmp_path / "new"), "no folder"),
    ):
        result = run("convert", *arguments)
        assert result.exit_code == 1 and reason in result.stderr, result.output
        assert result.stdout == "" and result.stderr.count("\n") == 1
    assert run("convert", checkpoint(), out, "--precision", "int4", "--force").exit_code == 0
    assert Manifest.from_folder(out).precision == "int4"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]


def test_cache_lists_and_clears(checkpoint: Callable[..., Path], cache: Path) -> None:
    assert "Nothing is cached" in run("cache").stderr
    source = checkpoint()
    folder = converted(inspect(source), "int8", name=str(source)).folder
    assert run("cache").stdout == f"{source}  int8  {megabytes(folder)}\n"
    entry = json.loads(run("cache", "--json").stdout)
    assert entry["folder"] == str(folder) and entry["source"] == str(source) and entry["usable"]
    assert entry["bytes"] > 100_000
    assert run("cache", source).exit_code == 2  # a name alone might be a wish to clear, or not
    assert "nothing called other" in run("cache", "other", "--clear").stderr
    assert folder.exists()
    assert "Removed 1" in run("cache", source, "--clear").stderr
    assert not folder.exists()
