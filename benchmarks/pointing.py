"""Does an attribution point at the thing that the answer names? Pointing game and deletion curve on held-out scenes.

    python -m benchmarks.pointing [--model NAME] [--set seen] [--questions 300] [--json FILE]

Asked are the held-out questions of the embedded model whose answer names one thing of a kind that the picture has
once: where it is, the generator of the scenes knows (`benchmarks/places.json`, written by `training.places`).

Pointing game (Zhang et al. 2016, arXiv 1608.00507): the share of maps whose hottest point is in the thing's square,
without their tolerance of 15 pixels. Chance is the mean share of the picture that the squares take; "centre" points
at the middle of the picture. Deletion (Petsiuk et al. 2018, arXiv 1806.07421): the mean probability of the answer,
relative to that for the whole picture, while the hottest tenths are covered with the mean colour; lower is better.
"random" covers as much of smooth noise.
"""

from __future__ import annotations

import argparse
import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import blip2_chat
from blip2_chat.evaluation.held_out import HeldOut, Question, picture_in
from blip2_chat.images import Picture, open_picture, to_pixels
from blip2_chat.model import Model

PLACES = Path(__file__).with_name("places.json")
SHARES = tuple(tenth / 10 for tenth in range(1, 10))


@dataclass(frozen=True)
class Case:
    question: Question
    x: float
    y: float
    size: float

    def holds(self, x: float, y: float) -> bool:
        """Whether a point, in fractions of the picture's sides, is in the thing's square."""
        return bool(max(abs(x - self.x), abs(y - self.y)) <= self.size / 2)


def cases(name: str) -> Iterator[Case]:
    """Questions whose answer names one thing, with its place."""
    pictures = json.loads(PLACES.read_text(encoding="utf-8"))[name]
    for question in HeldOut.open(name).questions:
        things = pictures[int(Path(question.picture).stem)]
        article, _, kind = question.answer.partition(" ")
        named = [thing for thing in things if thing[0] == kind]
        if article in ("a", "an") and len(named) == 1 and not question.turns:
            yield Case(question, *named[0][1:])


def deletion(model: Model, picture: Picture, prompt: str, answer: str, heats: list[np.ndarray]) -> np.ndarray:
    """The answer's probability with each share of the hottest pixels covered, relative to the whole picture's.

    heats: maps [S, S]. -> [maps, shares].
    """
    from blip2_chat.generation.loop import generate
    from blip2_chat.generation.rows import Task, tokenise_choices
    from blip2_chat.generation.settings import Decoding

    pixels = to_pixels(picture, model.preprocess)
    ground = pixels.mean(axis=(2, 3), keepdims=True)
    rows = [pixels]
    for heat in heats:
        order = np.argsort(-heat, axis=None, kind="stable")
        for share in SHARES:
            mask = np.zeros(heat.size, bool)
            mask[order[: round(share * heat.size)]] = True
            rows.append(np.where(mask.reshape(heat.shape), ground, pixels).astype(np.float32))
    choices = tokenise_choices([answer], prompt, model.tokenizer, model.engine.config)
    task = Task(model.tokenizer.encode(prompt), Decoding(), choices=choices)
    instructions = [model.tokenizer.instruction(prompt)] * len(rows)
    vectors = model.engine.query(model.engine.encode_image(np.concatenate(rows)), instructions)
    written = generate(model.engine, model.tokenizer, vectors, [task] * len(rows))
    scores = np.exp([sum(one.logprobs[:-1]) for (one,) in written])
    return (scores[1:] / scores[0]).reshape(len(heats), len(SHARES))


def random_heat(side: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise: what covers as large pieces as a map does."""
    from PIL import Image

    coarse = Image.fromarray(rng.random((6, 6)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BILINEAR))


def measure(model: Model, name: str, limit: int) -> dict[str, object]:
    chosen = list(cases(name))[:limit]
    hits, central, squares, curves, right, seconds = 0, 0, [], [], 0, 0.0
    by_task: dict[str, list[bool]] = {}
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(HeldOut.open(name).path) as archive:
        for number, case in enumerate(chosen, 1):
            question = case.question
            picture = picture_in(archive, question.picture, open_picture)
            right += model.ask(picture, question.question) == question.answer
            started = time.perf_counter()
            heat = model.attribution(picture, question.question, question.answer)
            seconds += time.perf_counter() - started
            row, column = np.unravel_index(int(heat.argmax()), heat.shape)
            hit = case.holds((column + 0.5) / heat.shape[1], (row + 0.5) / heat.shape[0])
            hits += hit
            by_task.setdefault(question.task, []).append(hit)
            central += case.holds(0.5, 0.5)
            squares.append(case.size**2)
            prompt = model.template.render([], question.question)
            side = model.preprocess.size[0]
            shown = heat if heat.shape == (side, side) else np.resize(heat, (side, side))
            curves.append(deletion(model, picture, prompt, question.answer, [shown, random_heat(side, rng)]))
            if number % 25 == 0:
                print(f"{number} of {len(chosen)}: {hits / number:.1%}", flush=True)
    mean = np.mean(curves, axis=0)
    count = len(chosen)
    return {
        "model": model.name, "precision": model.engine.precision, "set": name, "questions": count,
        "answered right": right / count, "pointing game": hits / count, "chance": float(np.mean(squares)),
        "centre": central / count, "seconds": seconds / count,
        "by task": {task: {"questions": len(found), "hits": sum(found)} for task, found in sorted(by_task.items())},
        "deletion": {"share": SHARES, "map": mean[0].tolist(), "random": mean[1].tolist()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--set", default="seen", choices=["seen", "unseen"])
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = measure(blip2_chat.load(arguments.model), arguments.set, arguments.questions)
    print(json.dumps(found, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
