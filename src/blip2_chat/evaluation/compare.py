"""Compares precisions: the same pictures and questions for every available engine and precision.

Each contestant runs in a process of its own, so that its memory is its own; what is measured is what a user has:
loading, answers one after the other, the largest resident set.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import Blip2ChatError
from ..examples import read_rows
from ..generation.settings import Decoding
from ..prompts import Exchange, fit
from ..system.memory import peak_memory
from ..system.progress import Progress, silent
from .held_out import SETS, HeldOut, picture_in
from .scoring import cider, plain, vqa_accuracy

if TYPE_CHECKING:
    from ..model import Model


@dataclass(frozen=True)
class Item:
    """One question about one picture (None: a caption is asked for), and what people said."""

    picture: str  # a path, or a name in the set's zip
    question: str | None
    expected: tuple[str, ...]
    turns: tuple[Exchange, ...] = ()


@dataclass(frozen=True)
class Questions:
    """What is asked: items, and the zip that holds their pictures, if one does."""

    name: str
    items: tuple[Item, ...]
    archive: Path | None = None

    @classmethod
    def open(cls, name_or_path: str, limit: int | None = None) -> Questions:
        """ "seen", "unseen", a held-out zip, or a file of the user's own (`is_own`).

        See `examples.read_rows` for the latter. `Blip2ChatError` when it is none of these.
        """
        if not is_own(name_or_path):
            held_out = HeldOut.open(name_or_path)
            asked = [Item(q.picture, q.question, (q.answer,), q.turns) for q in held_out.questions[:limit]]
            captions = [Item(c.picture, None, (c.caption,)) for c in held_out.captions[:limit]]
            if not asked and not captions:
                raise Blip2ChatError(f"{name_or_path} has no questions")
            return cls(name_or_path, (*asked, *captions), held_out.path)
        path = Path(name_or_path)
        # The pictures are looked for now, and not for each contestant after all that it answered before.
        items = tuple(Item(row.picture, row.question, row.answers) for row in read_rows(path))[:limit]
        return cls(path.name, items)


def is_own(name_or_path: str) -> bool:
    """Whether this names a user's own JSON lines or CSV rather than a held-out set."""
    return name_or_path not in SETS and not name_or_path.lower().endswith(".zip")


@dataclass(frozen=True)
class Contestant:
    engine: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.engine} {self.precision}"


def at_hand() -> list[Contestant]:
    """Every engine and precision that is installed: the onnx engine's, and with torch its own on this CPU."""
    found = [Contestant("onnx", precision) for precision in ("fp32", "int8", "int4")]
    if find_spec("torch") and find_spec("transformers"):
        found.append(Contestant("torch", "fp32"))
        if find_spec("bitsandbytes"):
            found += [Contestant("torch", "int8"), Contestant("torch", "int4")]
    return found


@dataclass
class Outcome:
    """A contestant's answers and measurements; `failed` says why there are none."""

    contestant: Contestant
    answers: list[str] = field(default_factory=list)
    load_seconds: float = 0.0
    answer_seconds: float = 0.0  # mean
    memory: int = 0  # bytes, the largest resident set
    failed: str | None = None

    def scores(self, items: tuple[Item, ...]) -> dict[str, float]:
        return scores(items, self.answers)


def scores(items: Sequence[Item], answers: Sequence[str]) -> dict[str, float]:
    """exact match and VQA accuracy over the questions, CIDEr-D over the captions; what there are of."""
    pairs = list(zip(items, answers, strict=True))
    asked = [(item, answer) for item, answer in pairs if item.question is not None]
    captions = [(item, answer) for item, answer in pairs if item.question is None]
    found: dict[str, float] = {}
    if asked:
        hits = [any(plain(answer) == plain(one) for one in item.expected) for item, answer in asked]
        found["exact match"] = sum(hits) / len(hits)
        found["VQA accuracy"] = sum(vqa_accuracy(answer, item.expected) for item, answer in asked) / len(
            asked
        )
    if captions:
        texts = [answer for _, answer in captions]
        found["CIDEr"] = cider(texts, [item.expected for item, _ in captions])
    return found


def answered(model: Model, questions: Questions) -> Iterator[str]:
    """What a chat answers to each item, one after the other."""
    decoding = Decoding()
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(questions.archive)) if questions.archive else None
        for item in questions.items:
            picture = picture_in(archive, item.picture, model.open) if archive else model.open(item.picture)
            text = model.template.caption
            if item.question is not None:
                budget = model.prompt_budget(decoding)
                text = fit(model.template, model.tokenizer.encode, item.turns, item.question, budget).text
            yield "".join(model.write(picture, text, decoding))


def compare(
    model: str,
    questions: Questions,
    contestants: list[Contestant],
    *,
    adapter: str | None = None,
    force: bool = False,
    on_progress: Progress = silent,
) -> list[Outcome]:
    """Asks every contestant everything, one process after the other; one that fails does not end the rest."""
    loading = {"name_or_path": model, "adapter": adapter, "force": force}
    return [_outcome(loading, questions, one, on_progress) for one in contestants]


def disagreements(questions: Questions, outcomes: list[Outcome]) -> Iterator[tuple[Item, list[str]]]:
    """The items on which not all contestants say the same, with what each says."""
    answered = [one for one in outcomes if one.failed is None]
    for place, item in enumerate(questions.items):
        said = [one.answers[place] for one in answered]
        if len({plain(one) for one in said}) > 1:
            yield item, said


def _outcome(
    loading: dict[str, Any], questions: Questions, contestant: Contestant, on_progress: Progress
) -> Outcome:
    # A fresh interpreter: memory that this one holds, or that another contestant left behind, would count.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_contest, args=(theirs, loading, questions, contestant), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            kind, value = ours.recv()
            if kind == "progress":
                on_progress(contestant.name, value, len(questions.items))
                continue
            process.join()
            outcome: Outcome = value
            return outcome
    except EOFError:
        process.join()
        return Outcome(contestant, failed=f"its process ended with status {process.exitcode}: out of memory?")
    finally:
        process.kill()


def _contest(pipe: Any, loading: dict[str, Any], questions: Questions, contestant: Contestant) -> None:
    """In the contestant's process; `loading` are keywords of `load`."""
    try:
        pipe.send(("outcome", _answered(pipe, loading, questions, contestant)))
    except Blip2ChatError as error:
        pipe.send(("outcome", Outcome(contestant, failed=str(error))))
    finally:
        pipe.close()


def _answered(pipe: Any, loading: dict[str, Any], questions: Questions, contestant: Contestant) -> Outcome:
    from ..loading import EngineChoice, PrecisionChoice, load

    outcome = Outcome(contestant)
    started = time.perf_counter()
    model = load(
        **loading,
        engine=cast(EngineChoice, contestant.engine),
        precision=cast(PrecisionChoice, contestant.precision),
        device="cpu",
    )
    outcome.load_seconds = time.perf_counter() - started
    started = time.perf_counter()
    for place, answer in enumerate(answered(model, questions)):
        outcome.answers.append(answer)
        pipe.send(("progress", place + 1))
    outcome.answer_seconds = (time.perf_counter() - started) / len(questions.items)
    outcome.memory = peak_memory()
    return outcome
