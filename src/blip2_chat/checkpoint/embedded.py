"""The model inside the package: its name, where it lies, and the sample pictures that it was made for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

EMBEDDED = "demo"
FOLDER = Path(__file__).parents[1] / "demo"
SAMPLES = FOLDER / "samples"


@dataclass(frozen=True)
class SamplePicture:
    """`caption` and the answers of `questions` (question -> answer) are what is true, and what the model says."""

    path: Path
    caption: str
    questions: dict[str, str]


@cache
def sample_pictures() -> tuple[SamplePicture, ...]:
    """The shipped samples, in the order in which they are to be shown."""
    listed = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    return tuple(
        SamplePicture(
            SAMPLES / one["picture"],
            one["caption"],
            {asked["question"]: asked["answer"] for asked in one["questions"]},
        )
        for one in listed
    )


def suggested_questions(picture: Path) -> tuple[str, ...]:
    """Questions to try about a sample picture or a copy of it; none about any other."""
    for sample in sample_pictures():
        if sample.path.name == picture.name and sample.path.read_bytes() == picture.read_bytes():
            return tuple(sample.questions)
    return ()
