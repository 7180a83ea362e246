"""How often a model is right: held-out questions and captions, asked exactly as a chat asks them.

A set is a zip of pictures with two lists of JSON lines:

    questions.jsonl   {"picture", "turns": [[question, answer]...], "question", "answer", "task"}
    captions.jsonl    {"picture", "caption", "objects": [name...]}

`turns` went before the question, and their answers are the right ones. An answer counts when it is the expected
one, capitals, outer white space and a final full stop aside. A caption is scored by the kinds of objects that it
names, with their plurals and whatever their number, against `objects`: micro-averaged F1. The training's own
measure (training/evaluate_hf.py, transformers alone) defines all of it alike.
"""

from __future__ import annotations

import json
import re
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint.embedded import FOLDER
from ..errors import Blip2ChatError
from ..generation.loop import generate
from ..generation.rows import Task
from ..generation.settings import Decoding
from ..images import Picture
from ..prompts import Exchange, fit
from ..system.progress import Progress, silent
from .scoring import plain

if TYPE_CHECKING:
    from ..model import Model

# The sets that ship beside the embedded model: drawing styles it was trained on, and one it was not.
SETS = ("seen", "unseen")
_BATCH = 16
# What a zip raises about a member that is absent, damaged, encrypted or compressed in a way that Python lacks.
_UNREADABLE = (KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Question:
    picture: str
    turns: tuple[Exchange, ...]
    question: str
    answer: str
    task: str


@dataclass(frozen=True)
class Caption:
    picture: str
    caption: str
    objects: frozenset[str]


@dataclass(frozen=True)
class HeldOut:
    """A set on disk: its lists; pictures are read when they are asked about."""

    path: Path
    questions: tuple[Question, ...]
    captions: tuple[Caption, ...]

    @classmethod
    def open(cls, name_or_path: str | Path) -> HeldOut:
        """ "seen", "unseen", or a zip's path. `Blip2ChatError` when it is not a set."""
        path = Path(name_or_path)
        if str(name_or_path) in SETS:
            path = FOLDER / f"heldout-{name_or_path}.zip"
        try:
            with zipfile.ZipFile(path) as archive:
                questions = tuple(_question(line) for line in _lines(archive, "questions.jsonl"))
                captions = tuple(
                    Caption(line["picture"], line["caption"], frozenset(map(str.lower, line["objects"])))
                    for line in _lines(archive, "captions.jsonl")
                )
        except FileNotFoundError:
            raise Blip2ChatError(
                f"there is no held-out set {path}; give {' or '.join(SETS)}, or a zip"
            ) from None
        except (*_UNREADABLE, ValueError, TypeError, AttributeError) as error:
            raise Blip2ChatError(f"{path} is not a held-out set: {error}") from None
        return cls(path, questions, captions)

    @property
    def object_names(self) -> frozenset[str]:
        """Every kind of object in the set: what a caption is searched for."""
        return frozenset[str]().union(*(caption.objects for caption in self.captions))


@dataclass
class Report:
    """Counts so far; the figures follow from them."""

    # By task: questions asked, and answered right.
    asked: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    captions: int = 0
    captions_right: int = 0
    # Kinds of objects, over all captions: named and there, named, there.
    hits: int = 0
    named: int = 0
    there: int = 0
    seconds: float = 0.0

    @property
    def exact_match(self) -> float:
        """Share of all questions answered right."""
        return _share(self.right.total(), self.asked.total())

    def task_match(self, task: str) -> float:
        return _share(self.right[task], self.asked[task])

    @property
    def precision(self) -> float:
        return _share(self.hits, self.named)

    @property
    def recall(self) -> float:
        return _share(self.hits, self.there)

    @property
    def caption_match(self) -> float:
        """Share of captions that are the expected one, word for word."""
        return _share(self.captions_right, self.captions)

    @property
    def caption_f1(self) -> float:
        return _share(2 * self.hits, self.named + self.there)


class Evaluation:
    """A model on a set. `report` is up to date also while `run` runs, and after it was broken off."""

    def __init__(self, model: Model, held_out: HeldOut, limit: int | None = None) -> None:
        self._model = model
        self._set = held_out
        self._questions = held_out.questions[:limit]
        self._captions = held_out.captions[:limit]
        self.report = Report()

    def run(self, on_progress: Progress = silent) -> Report:
        """Asks all questions. `on_progress` is called with a description, the number done and the number of
        all."""
        started = time.perf_counter()
        try:
            with zipfile.ZipFile(self._set.path) as archive:
                for batch, done in _batches(self._questions):
                    self._ask(archive, batch)
                    on_progress("questions", done, len(self._questions))
                for batch, done in _batches(self._captions):
                    self._caption(archive, batch)
                    on_progress("captions", done, len(self._captions))
        finally:
            self.report.seconds = time.perf_counter() - started
        return self.report

    def _ask(self, archive: zipfile.ZipFile, questions: Sequence[Question]) -> None:
        model = self._model
        budget = model.prompt_budget(Decoding())
        prompts = [
            fit(model.template, model.tokenizer.encode, one.turns, " ".join(one.question.split()), budget)
            for one in questions
        ]
        pictures = [picture_in(archive, one.picture, model.open) for one in questions]
        written = self._write(pictures, [prompt.text for prompt in prompts])
        for one, answer in zip(questions, written, strict=True):
            self.report.asked[one.task] += 1
            self.report.right[one.task] += plain(answer) == plain(one.answer)

    def _caption(self, archive: zipfile.ZipFile, captions: Sequence[Caption]) -> None:
        template = self._model.template
        pictures = [picture_in(archive, one.picture, self._model.open) for one in captions]
        written = self._write(pictures, [template.caption] * len(captions))
        for one, text in zip(captions, written, strict=True):
            named = objects_named(f"{template.begun()} {text}", self._set.object_names)
            self.report.captions += 1
            self.report.captions_right += plain(text) == plain(one.caption)
            self.report.hits += len(named & one.objects)
            self.report.named += len(named)
            self.report.there += len(one.objects)

    def _write(self, pictures: Sequence[Picture], prompts: Sequence[str]) -> list[str]:
        """Greedy answers, side by side: what a chat writes one after the other."""
        model = self._model
        # What was encoded is kept per picture, and most pictures have several questions.
        vectors = [
            model.query_vectors(picture, model.tokenizer.instruction(prompt))
            for picture, prompt in zip(pictures, prompts, strict=True)
        ]
        tasks = [Task(model.tokenizer.encode(one), Decoding(), model.template.stop) for one in prompts]
        return [
            best.text for best, *_ in generate(model.engine, model.tokenizer, np.concatenate(vectors), tasks)
        ]


def picture_in(archive: zipfile.ZipFile, name: str, opened: Callable[[bytes], Picture]) -> Picture:
    """A picture of a set, by `opened`; `Blip2ChatError` naming both when it cannot be read."""
    try:
        return opened(archive.read(name))
    except (*_UNREADABLE, Blip2ChatError) as error:
        raise Blip2ChatError(f"{archive.filename}: {name}: {error}") from None


def objects_named(caption: str, names: frozenset[str]) -> frozenset[str]:
    """The names that occur in a caption as whole words, in the singular or the plural."""
    text = caption.lower()
    return frozenset(
        name for name in names if re.search(rf"\b(?:{re.escape(name)}|{re.escape(plural(name))})\b", text)
    )


def plural(name: str) -> str:
    """English's regular plural."""
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    return name + ("es" if re.search(r"(?:s|x|z|ch|sh)$", name) else "s")


def _lines(archive: zipfile.ZipFile, name: str) -> Iterator[Any]:
    # Not `splitlines`: inside of its strings JSON may hold other line ends than the one after it.
    text = archive.read(name).decode("utf-8")
    return (json.loads(line) for line in text.split("\n") if line.strip())


def _question(line: dict[str, Any]) -> Question:
    turns = tuple(Exchange(str(question), str(answer)) for question, answer in line["turns"])
    return Question(line["picture"], turns, line["question"], line["answer"], line["task"])


def _batches(items: Sequence[Any]) -> Iterator[tuple[Sequence[Any], int]]:
    """Batches, each with the number of items up to its end."""
    for start in range(0, len(items), _BATCH):
        batch = items[start : start + _BATCH]
        yield batch, start + len(batch)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
