"""Where everything is in the held-out pictures that ship with the package: ``python -m training.places``.

Scenes are planned from the seeds of ``training.heldout``; nothing is drawn. ``benchmarks/places.json`` holds, for
each picture of a set, its things from left to right: the kind's name, and the centre and side of its square as
fractions of the picture's side. ``benchmarks.pointing`` measures attribution with it. Run it with the code and the
drawings that the sets were made with: it refuses to write places that do not belong to the shipped pictures.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from . import scenes
from .catalog import KINDS
from .export import DEMO
from .heldout import PICTURES, SETS
from .icons import IconStore

OUT = Path(__file__).parents[1] / "benchmarks" / "places.json"


def main() -> None:
    store = IconStore.load()
    found: dict[str, list[list[list[str | float]]]] = {}
    for held_out in SETS:
        table = store.table(held_out.unseen_style)
        pictures = []
        for number in range(PICTURES):
            scene = scenes.plan(table, np.random.default_rng((held_out.seed, number)))
            pictures.append(
                [
                    [KINDS[thing.kind].name, round(thing.x, 4), round(thing.y, 4), round(thing.size, 4)]
                    for thing in scene.things
                ]
            )
        with zipfile.ZipFile(DEMO / held_out.file) as archive:
            captions = [json.loads(line) for line in archive.read("captions.jsonl").decode().splitlines()]
        for line, things in zip(captions, pictures, strict=True):
            assert line["objects"] == [thing[0] for thing in things], (
                f"{line['picture']} was not made of these icons"
            )
        found[held_out.file.removeprefix("heldout-").removesuffix(".zip")] = pictures
    OUT.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
