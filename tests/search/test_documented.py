"""The commands of README.md and docs/search.md, as they stand, on the sample pictures.

The official name leads to a small random checkpoint, served by a hub on this machine. Once a retrieval model is
embedded, the documents name no other for the samples, and it has to find what is asked for.
"""

from __future__ import annotations

from tests.support.extras import require

require("test-search")

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from blip2_chat.checkpoint.embedded import EMBEDDED_RETRIEVER, embedded_models, sample_pictures
from tests.support.checkpoints import make_retriever
from tests.support.fake_hub import fake_hub

ROOT = Path(__file__).parents[2]
ABOUT_INDEXES = re.compile(r"^blip2-chat (?:index|search) .*", re.MULTILINE)

needs_embedded = pytest.mark.skipif(
    EMBEDDED_RETRIEVER not in embedded_models(), reason=f"{EMBEDDED_RETRIEVER} is not here yet"
)


@dataclass
class Shell:
    folder: Path
    environment: dict[str, str]

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """In a folder with `samples` and `photos`, both with the sample pictures."""
    folder = tmp_path_factory.mktemp("documented")
    for name in ("samples", "photos"):
        shutil.copytree(ROOT / "samples", folder / name)
    binaries = folder / "bin"
    binaries.mkdir()
    command = binaries / "blip2-chat"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m blip2_chat "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    with fake_hub() as hub:
        hub.revisions["Salesforce/blip2-itm-vit-g"] = {"main": make_retriever(folder / "official", std=0.3)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "BLIP2"))}
        yield Shell(
            folder,
            {
                **kept,
                "PYTHONPATH": str(ROOT / "src"),
                "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(folder / "hub"),
                "BLIP2_CHAT_CACHE": str(folder / "cache"),
                "NO_PROXY": "127.0.0.1",
            },
        )


# Of README.md, tests/project/test_readme.py runs every command.
@pytest.mark.slow
@pytest.mark.parametrize("document", ["docs/search.md"])
def test_every_command_runs_as_it_stands(shell: Shell, document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    commands = ABOUT_INDEXES.findall(text)
    assert len(commands) >= 2
    for command in commands:
        out = shell.run(command)
        if command.startswith("blip2-chat search"):
            assert out.count(".png") >= 3


@pytest.mark.slow
def test_the_piece_of_python_runs_as_it_stands(shell: Shell) -> None:
    text = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (command,) = (one for one in ABOUT_INDEXES.findall(text) if one.startswith("blip2-chat index photos/"))
    shell.run(command)
    (shell.folder / "example.py").write_text(code, encoding="utf-8")
    assert shell.run(f'"{sys.executable}" example.py').count(".png") == 5


@needs_embedded
@pytest.mark.slow
def test_the_samples_are_found_by_their_captions(shell: Shell) -> None:
    some = sample_pictures()[:3]
    shell.run("blip2-chat index samples --out captions.index")
    found = [
        Path(
            shell.run(f'blip2-chat search captions.index "{one.caption}" --top 1')
            .split(maxsplit=1)[1]
            .strip()
        )
        for one in some
    ]
    right = [path.name == one.path.name for path, one in zip(found, some, strict=True)]
    assert all(right), found


@needs_embedded
def test_the_documents_name_no_other_model_for_the_samples() -> None:
    for document in ("README.md", "docs/search.md", "docs/retrieval.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        assert "included yet" not in text, document
    commands = ABOUT_INDEXES.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert not [one for one in commands if "--model" in one]
