"""What other programs say of a picture's metadata: exiftool and exiv2, which share no code with this project;
and a process that ends while it writes some."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blip2_chat.metadata import files

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


def write_until(moment: int, path: str) -> None:
    """Writes a caption into the file, and ends the process at the so many-th thing that Python does with files."""
    calls = 0

    def killed(frame: Any, event: str, argument: Any) -> Any:
        nonlocal calls
        if "whole_files" in frame.f_code.co_filename or "pathlib" in frame.f_code.co_filename:
            calls += 1
            if calls == moment:
                os._exit(9)
        return killed

    sys.settrace(killed)
    files.write_caption(path, "a dog", embed=True)
