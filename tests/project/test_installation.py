"""What a person is told to type for an extra works for the copy that they have."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from blip2_chat.errors import MissingExtraError
from blip2_chat.installation import install_command

REPOSITORY = Path(__file__).parents[2]


class Installed:
    """A distribution, with the `direct_url.json` that an installer wrote, if it wrote one (PEP 610)."""

    def __init__(self, direct_url: str | None) -> None:
        self._direct_url = direct_url

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._direct_url


def command(monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | str | None) -> str:
    text = json.dumps(origin) if isinstance(origin, dict) else origin
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(text))
    return install_command("web")


def test_names_the_clone_that_it_was_installed_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "my clone"
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    plain = {"url": clone.as_uri(), "dir_info": {}}
    editable = {"url": clone.as_uri(), "dir_info": {"editable": True}}
    assert command(monkeypatch, plain) == f"pip install '{clone}[web]'"
    assert command(monkeypatch, editable) == f"pip install -e '{clone}[web]'"
    monkeypatch.chdir(clone)
    assert command(monkeypatch, plain) == "pip install '.[web]'"
    (clone / "pyproject.toml").unlink()
    assert command(monkeypatch, plain) == "pip install '.[web]' in the folder of a clone of blip2-chat"


def test_names_the_wheel_repository_or_index_that_it_was_installed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "blip2_chat-0.2.0-py3-none-any.whl"
    wheel.touch()
    assert command(monkeypatch, {"url": wheel.as_uri(), "archive_info": {}}) == f"pip install '{wheel}[web]'"
    address = "https://example.org/b.whl"
    assert (
        command(monkeypatch, {"url": address, "archive_info": {}})
        == f"pip install 'blip2-chat[web] @ {address}'"
    )
    git = {"url": "https://example.org/b.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    assert command(monkeypatch, git) == "pip install 'blip2-chat[web] @ git+https://example.org/b.git@abc'"
    assert command(monkeypatch, None) == "pip install 'blip2-chat[web]'"
    for odd in ("[1]", "{", '{"dir_info": {}}'):
        assert "in the folder of a clone" in command(monkeypatch, odd)


def test_names_its_own_folder_when_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    monkeypatch.chdir("/")
    assert install_command("run") in str(MissingExtraError("Parquet", "run"))
    assert install_command("run") == f"pip install '{REPOSITORY}[run]'"


def test_documents_name_no_package_that_is_not_published() -> None:
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    for page in pages:
        assert not re.search(r"pip install ['\"]?blip2-chat", page.read_text(encoding="utf-8")), page.name


# Where each keeps the environments that it makes, and a file that it leaves in them.
TOOLS = {
    "uv tool install": ("uv/tools/blip2-chat", "uv-receipt.toml"),
    "uvx --from": ("uv/archive-v0/x1", "pyvenv.cfg"),
    "pipx install --force": ("pipx/venvs/blip2-chat", "pipx_metadata.json"),
    "pipx run --spec": ("cache/pipx/1f", "pipx_metadata.json"),
    "pip install": ("my/venv", "pyvenv.cfg"),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_names_the_program_that_made_the_environment(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = TOOLS[tool]
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / file).touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / folder))
    runs_it = " blip2-chat" if tool in ("uvx --from", "pipx run --spec") else ""
    assert command(monkeypatch, None) == f"{tool} 'blip2-chat[web]'{runs_it}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tool", ["uvx --from", "pipx run --spec"])
def test_runs_from_the_wheel_without_being_installed(tool: str, tmp_path: Path) -> None:
    """And what is said about an extra can be run as it stands."""
    if shutil.which(tool.split()[0]) is None:
        pytest.skip(f"there is no {tool.split()[0]} here: pip install uv pipx")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel", "--no-deps"]
    subprocess.run([*pip, "-w", str(tmp_path), str(REPOSITORY)], check=True, timeout=280)
    (wheel,) = tmp_path.glob("*.whl")

    def run(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=600
        )

    plain = [*shlex.split(tool), str(wheel), "blip2-chat"]
    sample = str(REPOSITORY / "samples" / "dog-and-apple.png")
    assert run(plain, "ask", sample, "what is on the left?").stdout == "a dog\n"
    refused = run(plain, "mcp").stderr
    named = re.search(r"needs the \[mcp\] extra: (.*)", refused)
    assert named is not None, refused
    assert named[1].startswith(tool)
    assert "--root" in run(shlex.split(named[1]), "mcp", "--help").stdout
