"""Draw the sample pictures that ship with the package: ``python -m training.samples``.

They are composed by hand rather than at random, at 768 pixels from the sets' own vector drawings, with
questions and true answers in ``samples.json``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from .catalog import SETS
from .export import DEMO
from .fetch_sets import draw, fetch, svg_of

SIDE = 768


@dataclass(frozen=True)
class Thing:
    """A drawing (``set:icon``) with its centre and size as fractions of the picture's side."""

    icon: str
    x: float
    y: float
    size: float
    turn: float = 0.0


@dataclass(frozen=True)
class Sample:
    """A picture, what can be asked about it, and a conversation whose second question needs the first."""

    name: str
    ground: tuple[tuple[int, int, int], tuple[int, int, int]]  # the shades at the top and at the bottom
    things: tuple[Thing, ...]
    caption: str
    questions: tuple[tuple[str, str], ...]
    talk: tuple[tuple[str, str], tuple[str, str]]


SAMPLES = (
    Sample(
        "dog-and-apple",
        ((120, 178, 250), (66, 128, 226)),
        (Thing("noto:dog", 0.31, 0.56, 0.5), Thing("fluent-emoji:red-apple", 0.76, 0.42, 0.32)),
        "a dog and an apple on a blue background",
        (
            ("what is on the left?", "a dog"),
            ("what colour is the apple?", "red"),
            ("is there a car?", "no"),
        ),
        (("what is on the left?", "a dog"), ("and what is right of it?", "an apple")),
    ),
    Sample(
        "farm",
        ((128, 208, 112), (84, 170, 78)),
        (
            Thing("fluent-emoji:cow", 0.24, 0.7, 0.4),
            Thing("noto:house", 0.52, 0.26, 0.38),
            Thing("fluent-emoji:pig", 0.8, 0.72, 0.32),
        ),
        "a cow, a house and a pig on a green background",
        (
            ("what is at the top?", "a house"),
            ("how many things are there?", "three"),
            ("what is on the right?", "a pig"),
        ),
        (("what is on the right?", "a pig"), ("and how many are there?", "one")),
    ),
    Sample(
        "street",
        ((176, 176, 178), (132, 132, 134)),
        (
            Thing("fluent-emoji-flat:bus", 0.27, 0.3, 0.4),
            Thing("noto:automobile", 0.42, 0.76, 0.36),
            Thing("fluent-emoji-flat:bicycle", 0.78, 0.42, 0.38),
        ),
        "a bus, a car and a bicycle on a grey background",
        (
            ("what is in the picture?", "a bus, a car and a bicycle"),
            ("what is at the bottom?", "a car"),
            ("is the bus left of the bicycle?", "yes"),
        ),
        (("what is at the bottom?", "a car"), ("and what is at the top?", "a bus")),
    ),
    Sample(
        "birthday",
        ((255, 196, 214), (250, 164, 190)),
        (
            Thing("noto:balloon", 0.2, 0.3, 0.36, 8),
            Thing("fluent-emoji:birthday-cake", 0.5, 0.66, 0.42),
            Thing("noto:wrapped-gift", 0.8, 0.3, 0.32),
        ),
        "a balloon, a cake and a gift on a pink background",
        (
            ("what is left of the cake?", "a balloon"),
            ("is there a gift?", "yes"),
            ("what colour is the background?", "pink"),
        ),
        (("what is on the left?", "a balloon"), ("and on the right?", "a gift")),
    ),
    Sample(
        "two-cats",
        ((255, 232, 110), (252, 214, 70)),
        (
            Thing("noto:cat", 0.27, 0.34, 0.42),
            Thing("noto:cat", 0.72, 0.68, 0.42),
        ),
        "two cats on a yellow background",
        (
            ("how many cats are there?", "two"),
            ("is there a dog?", "no"),
            ("what is at the top?", "a cat"),
        ),
        (("what is at the top?", "a cat"), ("how many of them are there?", "two")),
    ),
    Sample(
        "night-sky",
        ((28, 28, 34), (12, 12, 16)),
        (
            Thing("noto:crescent-moon", 0.22, 0.24, 0.28),
            Thing("fluent-emoji:rocket", 0.54, 0.6, 0.44),
            Thing("noto:star", 0.83, 0.22, 0.22, 10),
        ),
        "a moon, a rocket and a star on a black background",
        (
            ("what is on the right?", "a star"),
            ("what is below the moon?", "a rocket"),
            ("how many stars are there?", "one"),
        ),
        (("what is on the left?", "a moon"), ("and what is below it?", "a rocket")),
    ),
    Sample(
        "fruit",
        ((176, 116, 206), (132, 78, 172)),
        (
            Thing("noto:banana", 0.24, 0.3, 0.38),
            Thing("fluent-emoji:green-apple", 0.5, 0.72, 0.36),
            Thing("noto:strawberry", 0.78, 0.32, 0.34),
        ),
        "a banana, an apple and a strawberry on a purple background",
        (
            ("how many things are there?", "three"),
            ("what colour is the banana?", "yellow"),
            ("what is at the bottom?", "an apple"),
        ),
        (("what is at the bottom?", "an apple"), ("and what colour is it?", "green")),
    ),
    Sample(
        "at-sea",
        ((112, 190, 246), (46, 116, 212)),
        (
            Thing("noto:tropical-fish", 0.2, 0.72, 0.34),
            Thing("noto:sailboat", 0.5, 0.26, 0.42),
            Thing("fluent-emoji:octopus", 0.8, 0.7, 0.36),
        ),
        "a fish, a boat and an octopus on a blue background",
        (
            ("what is at the top?", "a boat"),
            ("what is on the right?", "an octopus"),
            ("is there a penguin?", "no"),
        ),
        (("what is on the left?", "a fish"), ("and what is at the top?", "a boat")),
    ),
)


def compose(sample: Sample, sets: dict[str, dict[str, Any]]) -> Image.Image:
    """The picture: a soft gradient, and the things with soft shadows."""
    along = np.linspace(0, 1, SIDE, dtype=np.float32)[:, None, None]
    top, bottom = (np.array(shade, np.float32) for shade in sample.ground)
    ground = np.broadcast_to(top * (1 - along) + bottom * along, (SIDE, SIDE, 3))
    picture = Image.fromarray(ground.round().astype(np.uint8))
    for thing in sample.things:
        set_name, icon = thing.icon.split(":")
        sprite = draw(svg_of(sets[set_name], icon), round(thing.size * SIDE))
        if thing.turn:
            sprite = sprite.rotate(thing.turn, Image.Resampling.BICUBIC, expand=True)
        left, top_edge = round(thing.x * SIDE - sprite.width / 2), round(thing.y * SIDE - sprite.height / 2)
        shade = Image.new("L", (SIDE, SIDE))
        shade.paste(sprite.getchannel("A").point(lambda alpha: alpha * 0.3), (left + 5, top_edge + 8))
        picture.paste((15, 15, 25), (0, 0), shade.filter(ImageFilter.GaussianBlur(6)))
        picture.paste(sprite, (left, top_edge), sprite)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=DEMO / "samples")
    folder: Path = parser.parse_args().folder
    sets = {one.name: fetch(one) for one in SETS if not one.held_out}
    folder.mkdir(parents=True, exist_ok=True)
    listing = []
    for sample in SAMPLES:
        path = folder / f"{sample.name}.png"
        compose(sample, sets).save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
        questions = [{"question": question, "answer": answer} for question, answer in sample.questions]
        listing.append(
            {
                "picture": path.name,
                "caption": sample.caption,
                "questions": questions,
                "conversation": [list(turn) for turn in sample.talk],
            }
        )
    (folder / "samples.json").write_text(json.dumps(listing, indent=1) + "\n")


if __name__ == "__main__":
    main()
