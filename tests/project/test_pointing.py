"""The pointing game: what is measured is kept, and not measured again; a map on the thing is a hit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pointing
from blip2_chat.evaluation.saved import SavedRows

METHODS = ["centre", "occlusion"]


def measured(path: Path, questions: int) -> list[dict[str, Any]]:
    saved = SavedRows(path, {"model": "demo", "set": "seen"})
    return pointing.measure("demo", "seen", questions, METHODS, saved)


def test_a_run_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "pointing.jsonl"
    rows = measured(path, 1)
    assert [row["method"] for row in rows] == METHODS
    lines = path.read_text("utf-8").splitlines(keepends=True)
    assert len(lines) == 1 + len(METHODS)
    # As a kill in the middle of a line leaves it.
    path.write_text("".join(lines[:-1]) + lines[-1][:10], "utf-8")
    (kept, again) = measured(path, 1)
    assert kept == rows[0]
    assert {**again, "seconds": 0} == {**rows[1], "seconds": 0}
    told = pointing.table(rows)
    assert "| occlusion | 1 | " in told and "Chance: " in told
    assert json.loads(lines[1])["method"] == "centre"


def test_every_case_names_a_thing_that_the_picture_has_once() -> None:
    cases = list(pointing.cases("seen"))
    assert len(cases) >= 300
    for case in cases:
        assert 0 < case.size < 1 and case.holds(case.x, case.y)
        assert case.question.answer.split()[0] in ("a", "an")


def test_the_middle_is_where_centre_points() -> None:
    import numpy as np

    heat = pointing.blind_heat("centre", (31, 51), np.random.default_rng(0))
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    assert heat.shape == (31, 51)
    assert (row + 0.5) / 31 == pytest.approx(0.5) and (column + 0.5) / 51 == pytest.approx(0.5)
