"""Pictures with robots and without, each with one question and its answer, and old questions to mix in.

A robot stands alone on a painted background, or is put into a picture of the held-out set `unseen`, where
`benchmarks/places.json` says what is where already. The first half of that set is for teaching and the second for
testing, so no test picture, and no robot on one, has been seen. Its own questions about the first half are the old
ones; `seen` is not used here at all.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from blip2_chat.evaluation.held_out import HeldOut
from training import effects
from training.backgrounds import COLOURS, paint
from training.catalog import KIND_INDEX, KINDS
from training.questions import COUNTS, SIDES, outermost
from training.scenes import IMAGE_SIZE, Placed, Scene
from training.wordings import WORDINGS

from ..pointing import PLACES
from .robot import robot

NAME, PHRASE, MANY = "robot", "a robot", "robots"
_ROBOT = len(KINDS)
_STRENGTH = 0.35  # of the distortions, as in the held-out sets
_BASE = "unseen"
# What is asked, by turns.
_TASKS = (
    "what",
    "side",
    "no",
    "count-kind",
    "is-there",
    "side",
    "no",
    "caption",
    "side",
    "no",
    "is-there",
    "count-kind",
)


@dataclass(frozen=True)
class Row:
    """One example; `question` is "" where a caption is asked for."""

    picture: Image.Image
    question: str
    answer: str


class Maker:
    """Makes rows of the pictures of one half of the base set."""

    def __init__(self, half: int) -> None:
        self._set = HeldOut.open(_BASE)
        places = json.loads(PLACES.read_text(encoding="utf-8"))[_BASE]
        count = len(places) // 2
        self._numbers = range(half * count, (half + 1) * count)
        self._scenes = {
            number: Scene(
                tuple(Placed(KIND_INDEX[kind], 0, x, y, size) for kind, x, y, size in places[number]), 0
            )
            for number in self._numbers
        }
        with zipfile.ZipFile(self._set.path) as archive:
            self._pictures = {number: archive.read(f"{number:04d}.webp") for number in self._numbers}

    def rows(self, count: int, seed: int) -> Iterator[Row]:
        """About robots."""
        for number in range(count):
            yield self._row(_TASKS[number % len(_TASKS)], np.random.default_rng((seed, number)))

    def old(self, count: int, seed: int) -> Iterator[Row]:
        """The set's own questions that need no earlier turn, and as every fifth row a caption."""
        rng = np.random.default_rng(seed)
        names = {f"{number:04d}.webp" for number in self._numbers}
        asked = [one for one in self._set.questions if one.picture in names and not one.turns]
        captions = [one for one in self._set.captions if one.picture in names]
        for place, index in enumerate(rng.permutation(len(asked))[:count].tolist()):
            if place % 5 == 4:
                caption = captions[place // 5 % len(captions)]
                yield Row(self._open(caption.picture), "", caption.caption)
            else:
                yield Row(self._open(asked[index].picture), asked[index].question, asked[index].answer)

    def _row(self, task: str, rng: Generator) -> Row:
        if task == "no":
            picture, _ = self._base(rng)
            if rng.random() < 0.7:
                return Row(picture, _worded("is-there", rng), "no")
            return Row(picture, _worded("count-kind", rng), COUNTS[0])
        if task in ("what", "caption"):
            picture, scene, colour = self._alone(rng)
            number = len(scene.things)
            listed = PHRASE if number == 1 else f"{COUNTS[number]} {MANY}"
            if task == "what":
                return Row(picture, _worded("what", rng), listed)
            return Row(picture, "", f"{listed} on {'an' if colour == 'orange' else 'a'} {colour} background")
        if task == "side":
            return self._side(rng)
        picture, scene = self._among(rng) if rng.random() < 0.6 else self._alone(rng)[:2]
        if task == "is-there":
            return Row(picture, _worded("is-there", rng), "yes")
        return Row(picture, _worded("count-kind", rng), COUNTS[_robots(scene)])

    def _side(self, rng: Generator) -> Row:
        """Asks what is at one side: mostly the robot."""
        while True:
            picture, scene = self._among(rng)
            found = [(side, outermost(scene, side)) for side in SIDES]
            sides = [(side, thing) for side, thing in found if thing is not None]
            of_robot = [one for one in sides if one[1].kind == _ROBOT]
            choices = of_robot if rng.random() < 0.75 else sides
            if choices:
                side, thing = choices[int(rng.integers(len(choices)))]
                answer = PHRASE if thing.kind == _ROBOT else KINDS[thing.kind].phrase
                return Row(picture, _worded(side, rng), answer)

    def _open(self, name: str) -> Image.Image:
        return Image.open(io.BytesIO(self._pictures[int(Path(name).stem)])).convert("RGB")

    def _base(self, rng: Generator) -> tuple[Image.Image, Scene]:
        number = int(rng.choice(list(self._numbers)))
        return self._open(f"{number:04d}.webp"), self._scenes[number]

    def _alone(self, rng: Generator) -> tuple[Image.Image, Scene, str]:
        """One robot, at times two, and the colour of the background."""
        colour = COLOURS[int(rng.integers(len(COLOURS)))]
        picture = paint(colour, IMAGE_SIZE, rng)
        scene = Scene((), 0)
        for _ in range(1 if rng.random() < 0.7 else 2):
            size = rng.uniform(0.34, 0.56) if scene.things or rng.random() < 0.5 else rng.uniform(0.4, 0.6)
            scene = _put(picture, scene, size, rng) or scene
        return effects.finish(picture, rng, _STRENGTH), scene, colour.name

    def _among(self, rng: Generator) -> tuple[Image.Image, Scene]:
        """A robot beside one thing or more."""
        while True:
            picture, scene = self._base(rng)
            found = _put(picture, scene, rng.uniform(0.3, 0.48), rng) if scene.things else None
            if found is not None:
                return picture, found


def _put(picture: Image.Image, scene: Scene, size: float, rng: Generator) -> Scene | None:
    """Draws a robot where there is room for it; None where there is none."""
    margin = size * 0.46
    for _ in range(60):
        x, y = rng.uniform(margin, 1 - margin, 2)
        if all(max(abs(x - one.x), abs(y - one.y)) > 0.46 * (size + one.size) for one in scene.things):
            sprite = effects.distort(
                robot(rng), round(size * picture.width), effects.Style.sample(rng, _STRENGTH), rng, _STRENGTH
            )
            corner = (
                round(x * picture.width - sprite.width / 2),
                round(y * picture.height - sprite.height / 2),
            )
            picture.paste(sprite, corner, sprite)
            return Scene((*scene.things, Placed(_ROBOT, 0, x, y, size)), scene.colour)
    return None


def _robots(scene: Scene) -> int:
    return sum(thing.kind == _ROBOT for thing in scene.things)


def _worded(task: str, rng: Generator) -> str:
    forms = WORDINGS[task]
    return forms[int(rng.integers(len(forms)))].format(one=PHRASE, many=MANY, name=NAME)


def write(rows: Sequence[Row], folder: Path, name: str) -> Path:
    """`NAME.csv` with the columns picture, question and answer, and the pictures beside it."""
    pictures = folder / name
    pictures.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("picture", "question", "answer"))
        for number, row in enumerate(rows):
            row.picture.save(pictures / f"{number:04d}.png")
            table.writerow((f"{name}/{number:04d}.png", row.question, row.answer))
    return path
