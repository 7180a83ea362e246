"""Make the two held-out sets that ship with the package: ``python -m training.heldout``.

Each has 500 pictures from seeds that training never uses, with a caption and four questions each: one
set in the drawing styles of training, one in a style that training never sees. The files are ordinary
zips of WebP pictures with ``questions.jsonl`` and ``captions.jsonl``.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from . import scenes
from .catalog import KINDS
from .export import DEMO
from .icons import IconStore
from .questions import Asker, Turn, caption

PICTURES = 500
QUESTIONS_EACH = 4
STRENGTH = 0.35
TASKS = (
    "what", "left", "right", "top", "bottom", "count", "count-kind", "count-group", "is-there", "is-there",
    "is-there-group", "background", "relation", "relation", "colour", "is-colour", "place", "compare",
    "follow-up", "follow-up",
)  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """One held-out set: its file, its seed and whether it shows the unseen drawing style."""

    file: str
    seed: int
    unseen_style: bool


SETS = (HeldOut("heldout-seen.zip", 500_003, False), HeldOut("heldout-unseen.zip", 500_004, True))


def ask(scene: scenes.Scene, colours: Sequence[int | None], task: str, rng: Generator) -> list[Turn] | None:
    """The turns that lead to one question of this task (only follow-ups have earlier ones)."""
    asker = Asker(scene, rng, colours)
    for _ in range(40):
        if task == "follow-up":
            turns = asker.conversation(int(rng.integers(2, 4)))
        else:
            first = "side" if task in ("left", "right", "top", "bottom") else task
            turns = asker.conversation(1, first)
        if turns and turns[-1].task == task:
            return turns
    return None


def make(held_out: HeldOut, store: IconStore, folder: Path) -> Path:
    """Write one set. Made again from the same icons it is the same file, byte for byte."""
    table = store.table(held_out.unseen_style)
    pictures: list[tuple[str, bytes]] = []
    questions: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    turn_of = 0
    for number in range(PICTURES):
        rng = np.random.default_rng((held_out.seed, number))
        scene = scenes.plan(table, rng)
        name = f"{number:04d}.webp"
        drawn = scenes.draw(scene, store, rng, STRENGTH)
        pictures.append((name, webp(drawn.picture)))
        objects = [KINDS[thing.kind].name for thing in scene.things]
        captions.append({"picture": name, "caption": caption(scene), "objects": objects})
        asked = 0
        while asked < QUESTIONS_EACH:
            turns = ask(scene, drawn.colours, TASKS[turn_of % len(TASKS)], rng)
            turn_of += 1
            if turns is None:
                continue
            *before, last = turns
            questions.append(
                {
                    "picture": name, "turns": [[turn.question, turn.answer] for turn in before],
                    "question": last.question, "answer": last.answer, "task": last.task,
                }
            )  # fmt: skip
            asked += 1
    path = folder / held_out.file
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in pictures:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_STORED)
        for name, lines in (("questions.jsonl", questions), ("captions.jsonl", captions)):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return path


def webp(picture: Image.Image) -> bytes:
    packed = io.BytesIO()
    picture.save(packed, "WEBP", quality=90, method=4)
    return packed.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=DEMO)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    store = IconStore.load()
    for held_out in SETS:
        path = make(held_out, store, folder)
        print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
