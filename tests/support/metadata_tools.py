"""What other programs say of a picture's metadata: exiftool and exiv2, which share no code with this project."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

needs_tools = pytest.mark.skipif(
    not (shutil.which("exiftool") and shutil.which("exiv2")),
    reason="asks exiftool and exiv2: `apt install libimage-exiftool-perl exiv2`",
)


def exiftool(path: Path, *options: str) -> dict[str, Any]:
    """Every tag, with its group: {"XMP-dc:Description": ...}. Files about which exiftool has a warning fail."""
    command = ["exiftool", "-json", "-G1", "-struct", "-b", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (found,) = json.loads(done.stdout)
    tags: dict[str, Any] = {str(name): value for name, value in found.items()}
    assert "ExifTool:Error" not in tags, tags
    assert tags.get("ExifTool:Warning", "[minor]").startswith("[minor]"), tags
    return tags


def exiv2(path: Path) -> dict[str, str]:
    """The XMP properties: {"Xmp.dc.description": 'lang="x-default" ...'}."""
    done = subprocess.run(["exiv2", "-PXkt", str(path)], capture_output=True, text=True, check=False)
    assert "rror" not in done.stderr and "arning" not in done.stderr, done.stderr
    lines = (line.split(None, 1) for line in done.stdout.splitlines() if line.startswith("Xmp."))
    return {line[0]: line[1].strip() if len(line) > 1 else "" for line in lines}


def make(*command: str | Path) -> None:
    """Runs another program that makes or changes a file."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"makes its files with {command[0]}")
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
