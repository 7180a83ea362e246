"""The models inside the package: their names, and where they lie."""

from __future__ import annotations

import os
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


def default_retriever() -> str:
    """The name of the model that matches pictures with texts when none is given."""
    return os.environ.get(RETRIEVER_VARIABLE) or EMBEDDED_RETRIEVER
