"""The documentation as a site: it builds without a warning, its references are complete, and it needs no network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import typer.main

import blip2_chat
from blip2_chat.cli import app

pytest.importorskip("mkdocs", reason="the site needs the [docs] extra")
pytest.importorskip("mkdocstrings", reason="the site needs the [docs] extra")

ROOT = Path(__file__).parents[2]


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=project, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    for name in blip2_chat.__all__:
        assert name.startswith("_") or re.search(rf'id="blip2_chat\.{name}"', page), name


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    page = unescape(re.sub(r"<[^>]+>", "", (site / "cli.html").read_text(encoding="utf-8")))
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"Usage: blip2-chat {name}" in page
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or parameter.hidden or option in page, (name, option)


def test_the_page_loads_nothing_from_elsewhere(site: Path) -> None:
    """It can be read from a disk, and a reader is not reported to anyone."""
    for path in site.glob("*.html"):
        page = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?://[^"]+)"', page)
        assert loaded == [], path.name


@pytest.mark.slow
def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    for name in ("docs", "src/blip2_chat", "training"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("demo", "data", "runs", "__pycache__")
        )
    for path in (ROOT / "mkdocs.yml", *ROOT.glob("*.md")):
        shutil.copy(path, tmp_path)
    with (tmp_path / "docs" / "run.md").open("a", encoding="utf-8") as page:
        page.write("\n[nowhere](no-such-page.md)\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0 and "no-such-page.md" in built.stderr
