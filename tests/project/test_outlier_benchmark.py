"""`python -m benchmarks.outliers` goes on where it was stopped, and shows everything measured in one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import outliers


def table(printed: str) -> list[list[str]]:
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_stopped_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "results.json"
    few = ["--questions", "2", "--plantings", "as trained", "--save", str(saved)]
    outliers.main([*few, "--only", "blip2-chat fp32"])
    header, _, row = table(capsys.readouterr().out)
    assert header == ["", "as trained"] and row[0] == "blip2-chat fp32"
    before = json.loads(saved.read_text())["figures"]

    outliers.main([*few, "--only", "blip2-chat fp32,blip2-chat int4"])
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if "blip2-chat fp32" in line and line[0] != "|"] == []
    assert [row[0] for row in table(printed)] == ["", "---", "blip2-chat fp32", "blip2-chat int4"]
    after = json.loads(saved.read_text())["figures"]
    assert after["blip2-chat fp32"] == before["blip2-chat fp32"] and set(after) == {
        *before,
        "blip2-chat int4",
    }

    # Figures of other conditions are not shown beside them.
    outliers.main([*few[2:], "--questions", "1", "--only", "blip2-chat fp32"])
    assert [row[0] for row in table(capsys.readouterr().out)][2:] == ["blip2-chat fp32"]
