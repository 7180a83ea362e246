"""The models inside the package: their names, where they lie, and the sample pictures that they were made for."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import CheckpointError

EMBEDDED = "demo"
EMBEDDED_RETRIEVER = "demo-retrieval"
RETRIEVER_VARIABLE = "BLIP2_CHAT_RETRIEVER"
FOLDER = Path(__file__).parents[1] / "demo"
SAMPLES = FOLDER / "samples"

_FOLDERS = {EMBEDDED: FOLDER, EMBEDDED_RETRIEVER: FOLDER.with_name("demo_retrieval")}


def is_embedded(name: str) -> bool:
    """Whether `name` is that of a model inside the package."""
    return name in _FOLDERS


def embedded_folder(name: str) -> Path:
    """Where the embedded model `name` lies; `CheckpointError` when this installation does not include it."""
    folder = _FOLDERS[name]
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{name} is not part of this installation; name a checkpoint that matches pictures with texts, such as "
            f"Salesforce/blip2-itm-vit-g, or set {RETRIEVER_VARIABLE} to one",
            path=folder,
        )
    return folder


def embedded_models() -> dict[str, str]:
    """The names of the models in this installation, and what each is for."""
    about = {
        EMBEDDED: "inside the package: captions and answers about drawn scenes, not photographs",
        EMBEDDED_RETRIEVER: "inside the package: matches drawn scenes with texts, not photographs",
    }
    # The folder of the first belongs to every installation: without it, that is damaged.
    return {name: about[name] for name, folder in _FOLDERS.items() if name == EMBEDDED or folder.is_dir()}


def default_retriever() -> str:
    """The name of the model that matches pictures with texts when none is given."""
    return os.environ.get(RETRIEVER_VARIABLE) or EMBEDDED_RETRIEVER


@dataclass(frozen=True)
class SamplePicture:
    """`caption` and the answers are what is true, and what the model says: of `questions` (question -> answer), each
    alone, and of `conversation`, one (question, answer) after another."""

    path: Path
    caption: str
    questions: dict[str, str]
    conversation: tuple[tuple[str, str], ...]


@cache
def sample_pictures() -> tuple[SamplePicture, ...]:
    """The shipped samples, in the order in which they are to be shown."""
    listed = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    return tuple(
        SamplePicture(
            SAMPLES / one["picture"],
            one["caption"],
            {asked["question"]: asked["answer"] for asked in one["questions"]},
            tuple((question, answer) for question, answer in one["conversation"]),
        )
        for one in listed
    )


def suggested_questions(picture: Path) -> tuple[str, ...]:
    """Questions to try about a sample picture or a copy of it; none about any other."""
    for sample in sample_pictures():
        if sample.path.name == picture.name and sample.path.read_bytes() == picture.read_bytes():
            return tuple(sample.questions)
    return ()
