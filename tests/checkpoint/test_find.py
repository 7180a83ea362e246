"""`find`: which folder a name means, and what wrong names are told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import blip2_chat
from blip2_chat.checkpoint import inspect as checkpoint
from blip2_chat.checkpoint.inspect import find
from blip2_chat.errors import CheckpointError


def test_the_embedded_name_is_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = Path(blip2_chat.__file__).parent / "demo"
    assert find("demo") == inside
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("demo") == inside
    assert find("./demo").resolve() == tmp_path / "demo"


def test_a_folder_goes_before_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Salesforce" / "blip2-opt-2.7b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find("Salesforce/blip2-opt-2.7b") == Path("Salesforce/blip2-opt-2.7b")


def test_a_folder_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert find("~/models") == tmp_path / "models"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "blip2-opt-2.7b",
            "is neither a folder nor a hub name (org/name); did you mean Salesforce/blip2-opt",
        ),
        ("a/b/../c", "'a/b/../c' is neither a folder nor a hub name"),
        ("https://example.org/model", "neither a folder nor a hub name"),
        ("", "neither a folder nor a hub name"),
        ("./absent", "there is no folder absent"),
        ("../absent", "there is no folder"),
        ("~/absent-for-sure", "there is no folder"),
        (Path("org/name"), "there is no folder"),
    ],
)
def test_wrong_names_are_explained(name: str | Path, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        find(name)
    assert message in str(caught.value)


def test_a_file_is_not_a_folder(opt: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file; name the folder"):
        find(opt / "model.safetensors")


def test_the_client_of_the_hub_is_imported_only_when_asked() -> None:
    code = (
        "import sys, blip2_chat.checkpoint.inspect, blip2_chat.checkpoint.requirements; "
        "print({'huggingface_hub', 'torch'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(checkpoint.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "set()"
