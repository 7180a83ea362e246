"""Does an attribution point at the thing that the answer names? Pointing game and deletion curve on held-out scenes.

    python -m benchmarks.pointing [--questions 300] [--method occlusion]... [--out pointing.jsonl]

Asked are the held-out questions of the embedded model whose answer names one thing of a kind that the picture has
once: where it is, the generator of the scenes knows (`benchmarks/places.json`, written by `training.places`). Each
result is written as it comes, and the same command goes on after a kill.

Pointing game (Zhang et al. 2016, arXiv 1608.00507): the share of maps whose hottest point is in the thing's square,
without their tolerance of 15 pixels. "chance" is the mean share of the picture that the squares take. Deletion
(Petsiuk et al. 2018, arXiv 1806.07421): the probability of the answer, relative to that for the whole picture, while
the hottest tenths are covered with the mean colour; lower is better. Of the questions it is the median, because the
ratio knows no bound where the model finds the right answer unlikely. Beside the methods stand two that look at
nothing: "centre" says the middle of the picture, and "random" smooth noise.

Occlusion is measured with the engine that `load` chooses, the methods of the torch engine with that one (left out
where torch is not installed), and all deletion curves with the former, on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import blip2_chat
from blip2_chat.attribution import METHODS
from blip2_chat.evaluation.held_out import HeldOut, Question, picture_in
from blip2_chat.evaluation.saved import SavedRows
from blip2_chat.images import Picture, open_picture, to_pixels
from blip2_chat.model import Model

PLACES = Path(__file__).with_name("places.json")
SHARES = tuple(tenth / 10 for tenth in range(1, 10))
BLIND = ("centre", "random")
EVERY = (*METHODS, *BLIND)


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


def deletion(model: Model, picture: Picture, prompt: str, answer: str, heat: np.ndarray) -> list[float]:
    """The answer's probability with each share of the hottest pixels of a map [S, S] covered, relative to the whole
    picture's."""
    from blip2_chat.generation.loop import generate
    from blip2_chat.generation.rows import Task, tokenise_choices
    from blip2_chat.generation.settings import Decoding

    pixels = to_pixels(picture, model.preprocess)
    ground = pixels.mean(axis=(2, 3), keepdims=True)
    rows = [pixels]
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
    curve: list[float] = (scores[1:] / scores[0]).tolist()
    return curve


def blind_heat(method: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A map [H, W] that knows nothing of the picture: its middle, or noise as smooth as a map is."""
    from PIL import Image

    if method == "centre":
        y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in shape)
        return np.exp(-8 * (x[None] ** 2 + y[:, None] ** 2)).astype(np.float32)
    coarse = Image.fromarray(rng.random((6, 6)).astype(np.float32))
    return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BILINEAR))


def resized(heat: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(heat).resize((side, side), Image.Resampling.BILINEAR))


class Measuring:
    """One question after the other, by one method."""

    def __init__(self, name: str, held_out: str) -> None:
        self.model = blip2_chat.load(name, threads=1)
        self._name, self._held_out = name, held_out
        self._inside: Model | None = None  # of the torch engine, once it is needed

    def row(self, number: int, case: Case, method: str, archive: zipfile.ZipFile) -> dict[str, Any]:
        question = case.question
        picture = picture_in(archive, question.picture, open_picture)
        started = time.perf_counter()
        if method in BLIND:
            shape = picture.image.size[::-1]
            heat = blind_heat(method, shape, np.random.default_rng(number))
        else:
            model = self.model if method == "occlusion" else self._looked_into()
            heat = model.attribution(picture, question.question, question.answer, method=method)
        seconds = time.perf_counter() - started
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        hit = case.holds((column + 0.5) / heat.shape[1], (row + 0.5) / heat.shape[0])
        prompt = self.model.template.render([], question.question)
        shown = resized(heat, self.model.preprocess.size[0])
        curve = deletion(self.model, picture, prompt, question.answer, shown)
        return {
            "method": method, "number": number, "hit": hit, "seconds": round(seconds, 4),
            "deletion": [round(one, 5) for one in curve], "square": case.size**2,
        }  # fmt: skip

    def _looked_into(self) -> Model:
        if self._inside is None:
            self._inside = blip2_chat.load(self._name, engine="torch", precision="fp32", device="cpu")
        return self._inside


def measure(
    name: str,
    held_out: str,
    limit: int,
    methods: Sequence[str],
    saved: SavedRows,
    tell: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """All rows, those of an earlier run included."""
    chosen = list(cases(held_out))[:limit]
    rows = {(row["method"], row["number"]): row for row in saved.earlier()}
    missing = [
        (number, method)
        for method in methods
        for number in range(len(chosen))
        if (method, number) not in rows
    ]
    if missing:
        measuring = Measuring(name, held_out)
        with zipfile.ZipFile(HeldOut.open(held_out).path) as archive:
            for done, (number, method) in enumerate(missing, 1):
                row = measuring.row(number, chosen[number], method, archive)
                saved.append([row])
                rows[method, number] = row
                if done % 25 == 0:
                    tell(f"{done} of {len(missing)}")
    return [row for (method, number), row in rows.items() if method in methods and number < len(chosen)]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line for each method."""
    lines = [
        "| method | questions | pointing game | deletion | at 10 % | at 20 % | at 30 % | seconds a map |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method in EVERY:
        mine = [row for row in rows if row["method"] == method]
        if not mine:
            continue
        hits = sum(row["hit"] for row in mine)
        curves = np.array([row["deletion"] for row in mine])
        curve, over_all = np.median(curves, axis=0), np.median(curves.mean(axis=1))
        seconds = "" if method in BLIND else f"{np.median([row['seconds'] for row in mine]):.2f}"
        lines.append(
            f"| {method} | {len(mine)} | {hits} ({hits / len(mine):.1%}) | {over_all:.3f} "
            f"| {curve[0]:.2f} | {curve[1]:.2f} | {curve[2]:.2f} | {seconds} |"
        )
    chance = np.mean([row["square"] for row in rows])
    return "\n".join([*lines, "", f"Chance: {chance:.1%}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--set", default="seen", choices=["seen", "unseen"])
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument(
        "--method", action="append", choices=EVERY, help="by default all, the fast ones first"
    )
    parser.add_argument("--out", type=Path, default=Path("pointing.jsonl"))
    arguments = parser.parse_args()
    methods = arguments.method or [*BLIND, *reversed(METHODS)]
    if find_spec("torch") is None:
        methods = [one for one in methods if one in ("occlusion", *BLIND)]
    saved = SavedRows(arguments.out, {"model": arguments.model, "set": arguments.set})
    print(table(measure(arguments.model, arguments.set, arguments.questions, methods, saved)))


if __name__ == "__main__":
    main()
