"""What a person is told to type for an extra works for the copy that they have."""

from __future__ import annotations

import json
import re
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
