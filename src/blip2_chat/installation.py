"""How this copy of the package was installed, and so how to add an extra to it."""

from __future__ import annotations

import json
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

_NAME = "blip2-chat"


def install_command(extra: str) -> str:
    """The `pip install`, or the command of uv or pipx, that adds an extra: to the clone, wheel or repository that
    this copy came from (PEP 610), or from the package index if it came from there."""
    try:
        distribution = metadata.distribution(_NAME)
    except metadata.PackageNotFoundError:
        return _from_folder(Path(__file__).resolve().parents[2], extra, is_editable=False)
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        return _from_origin(origin, extra)
    except (ValueError, KeyError, TypeError, AttributeError):
        return _in_a_clone(extra)  # somebody's own installer wrote it


def _from_origin(origin: dict[str, Any], extra: str) -> str:
    if not origin:
        return _with_installer(f"'{_NAME}[{extra}]'")
    url: str = origin["url"]
    if vcs := origin.get("vcs_info"):
        return _quoted(f"{_NAME}[{extra}] @ {vcs['vcs']}+{url}@{vcs['commit_id']}")
    if not url.startswith("file:"):
        return _quoted(f"{_NAME}[{extra}] @ {url}")
    path = Path(url2pathname(urlsplit(url).path))
    if "dir_info" in origin:
        return _from_folder(path, extra, is_editable=bool(origin["dir_info"].get("editable")))
    return _quoted(f"{path}[{extra}]") if path.is_file() else _in_a_clone(extra)


def _from_folder(folder: Path, extra: str, is_editable: bool) -> str:
    if not (folder / "pyproject.toml").is_file():
        return _in_a_clone(extra)
    if folder == Path.cwd():
        return _with_installer(f"{'-e ' * is_editable}'.[{extra}]'")
    return _quoted(f"{folder}[{extra}]", "-e " * is_editable)


def _quoted(requirement: str, option: str = "") -> str:
    return _with_installer(f"{option}{shlex.quote(requirement)}")


def _with_installer(requirement: str) -> str:
    """With the program that made this environment: pip would install into another one."""
    prefix = Path(sys.prefix)
    if (prefix / "uv-receipt.toml").is_file():
        return f"uv tool install {requirement}"
    if prefix.parent.name.startswith(("archive-v", "environments-v")):  # uv's cache
        return f"uvx --from {requirement} {_NAME}"
    if (prefix / "pipx_metadata.json").is_file():
        if prefix.parent.name == "venvs":
            return f"pipx install --force {requirement}"
        return f"pipx run --spec {requirement} {_NAME}"
    return f"pip install {requirement}"


def _in_a_clone(extra: str) -> str:
    """Where it came from is gone."""
    command = _with_installer(f"'.[{extra}]'")
    return f"{command} in the folder of a clone of blip2-chat"
