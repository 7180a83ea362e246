"""The examples of docs/clients.md run as they stand, against the embedded model."""

from __future__ import annotations

from tests.support.extras import require

require("test-clients")

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blip2_chat
from tests.support.web_server import Running, running

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


# What each piece of Python prints, in the document's order.
PRINTED = [
    '{"description": "a dog and an apple on a blue background", "tags": ["dog", "apple"]}',
    "left='a dog' right='an apple' count=2",
    "a dog",
    "a dog",
]


@pytest.fixture(scope="module")
def embedded() -> Iterator[Running]:
    model = blip2_chat.load(threads=1)
    with running(model) as server:
        yield server
    model.close()


@pytest.mark.parametrize(("code", "printed"), list(zip(blocks("python"), PRINTED, strict=True)))
def test_the_python_examples(embedded: Running, code: str, printed: str) -> None:
    code = code.replace("http://127.0.0.1:8000", embedded.url)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == printed, done.stderr


@pytest.mark.parametrize("command", [line for block in blocks("bash") for line in block.splitlines()])
def test_the_commands(embedded: Running, tmp_path: Path, command: str) -> None:
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    (tmp_path / "src").symlink_to(ROOT / "src")
    command = command.replace("http://127.0.0.1:8000", embedded.url).replace(
        "blip2-chat", f"{sys.executable} -m blip2_chat", 1
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=os.environ
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
