"""The sample pictures and the questions that are suggested about them."""

from __future__ import annotations

from pathlib import Path

from blip2_chat.checkpoint.embedded import SAMPLES, sample_pictures, suggested_questions


def test_every_sample_is_there_with_questions() -> None:
    assert {one.path for one in sample_pictures()} == set(SAMPLES.glob("*.png"))
    assert all(len(one.questions) >= 3 and one.caption for one in sample_pictures())


def test_another_picture_of_that_name_has_no_suggestions(tmp_path: Path) -> None:
    first, second = sample_pictures()[:2]
    other = tmp_path / first.path.name
    other.write_bytes(second.path.read_bytes())
    assert suggested_questions(first.path) and not suggested_questions(other)
