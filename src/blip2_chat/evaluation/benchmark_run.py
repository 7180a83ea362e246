"""Asks a model a whole benchmark, in batches, and scores what it answered so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Blip2ChatError, GenerationError
from ..generation.loop import generate
from ..generation.rows import Task
from .benchmarks import Benchmark, Case, Key
from .presets import Preset
from .saved import SavedRows
from .scoring import bleu, cider, vqa_accuracy, vqa_plain

if TYPE_CHECKING:
    from ..model import Model
from ..system.progress import Progress, silent

_BATCH = 8


class BenchmarkRun:
    """A model on a benchmark. `answers` and `scores` are up to date while `run` runs, and after it was broken off.

    `saved`: a file of JSON lines that gets every answer as it is made, in the fields of the challenges' own result
    files. A run that finds answers in it resumes after them; `Blip2ChatError` when they are those of another model,
    precision, preset or set.
    """

    def __init__(self, model: Model, benchmark: Benchmark, preset: Preset, saved: Path | None = None) -> None:
        self.model = model
        self.benchmark = benchmark
        self.preset = preset
        self.seconds = 0.0
        self._saved = None if saved is None else SavedRows(saved, self._heading())
        self.answers = {} if self._saved is None else self._earlier(self._saved)
        self.resumed = len(self.answers)  # answers that an earlier run had saved

    @property
    def answered(self) -> list[tuple[Case, str]]:
        return [(one, self.answers[one.key]) for one in self.benchmark.cases if one.key in self.answers]

    def run(self, on_progress: Progress = silent) -> None:
        """Asks what has no answer yet."""
        started = time.perf_counter()
        open_cases = [one for one in self.benchmark.cases if one.key not in self.answers]
        what, total = self.benchmark.name, len(self.benchmark.cases)
        try:
            for at in range(0, len(open_cases), _BATCH):
                batch = open_cases[at : at + _BATCH]
                texts = dict(zip((one.key for one in batch), self._write(batch), strict=True))
                self.answers |= texts
                self._save(batch)
                on_progress(what, len(self.answers), total)
        finally:
            self.seconds = time.perf_counter() - started

    def scores(self) -> dict[str, float]:
        """The benchmark's measures of what is answered, 0 to 100 (CIDEr may be above), by name."""
        pairs = self.answered
        if self.benchmark.kind == "captions":
            return _caption_scores(pairs)
        if self.benchmark.kind == "gqa":
            exact = [float(answer == case.expected[0]) for case, answer in pairs]
            # LAVIS normalises what the model wrote, and not the expected answer.
            right = [float(vqa_plain(answer) == case.expected[0]) for case, answer in pairs]
            return {"exact match": _percent(exact), "LAVIS accuracy": _percent(right)}
        points = [(case.group, vqa_accuracy(answer, case.expected)) for case, answer in pairs]
        groups = sorted({group for group, _ in points if group})
        return {
            "accuracy": _percent([value for _, value in points]),
            **{name: _percent([value for group, value in points if group == name]) for name in groups},
        }

    def _write(self, cases: Sequence[Case]) -> list[str]:
        model = self.model
        family = model.engine.config.family
        decoding, stop = self.preset.settings(family), self.preset.template(family).stop
        texts = [self.preset.prompt(family, one.question) for one in cases]
        prompts = [model.tokenizer.encode(text) for text in texts]
        budget = model.prompt_budget(decoding)
        for case, prompt in zip(cases, prompts, strict=True):
            if len(prompt) > budget:
                raise GenerationError(f"the question {case.key} is {len(prompt)} tokens, and {budget} fit")
        pictures = []
        for case, text in zip(cases, texts, strict=True):
            try:
                instruction = model.tokenizer.instruction(text)
                pictures.append(model.query_vectors(model.open(case.picture), instruction))
            except Blip2ChatError as error:
                raise Blip2ChatError(f"{case.key}: {error}") from None
        tasks = [Task(prompt, decoding, stop) for prompt in prompts]
        answers = generate(model.engine, model.tokenizer, np.concatenate(pictures), tasks)
        return [best.text for best, *_ in answers]

    # The file of answers: a first line with what made them, then one line per answer.

    def _heading(self) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "engine": self.model.engine.name,
            "precision": self.model.engine.precision,
            "preset": self.preset.name,
            "benchmark": self.benchmark.name,
        }

    def _names(self) -> tuple[str, str]:
        """What the challenges' result files call the id and the text."""
        if self.benchmark.kind == "captions":
            return "image_id", "caption"
        return ("questionId", "prediction") if self.benchmark.kind == "gqa" else ("question_id", "answer")

    def _earlier(self, saved: SavedRows) -> dict[Key, str]:
        key, text = self._names()
        try:
            found = {row[key]: str(row[text]) for row in saved.earlier()}
        except (KeyError, TypeError):
            raise saved.foreign() from None
        wanted = {one.key for one in self.benchmark.cases}
        return {place: answer for place, answer in found.items() if place in wanted}

    def _save(self, cases: Sequence[Case]) -> None:
        if self._saved is not None:
            key, text = self._names()
            self._saved.append([{key: one.key, text: self.answers[one.key]} for one in cases])


def _caption_scores(pairs: Sequence[tuple[Case, str]]) -> dict[str, float]:
    texts, expected = [text for _, text in pairs], [case.expected for case, _ in pairs]
    found = {"CIDEr": 100 * cider(texts, expected), "BLEU-4": 100 * bleu(texts, expected)}
    # NoCaps scores each domain as a set of its own.
    for domain in sorted({case.group for case, _ in pairs if case.group}):
        chosen = [(text, case.expected) for case, text in pairs if case.group == domain]
        found[f"CIDEr {domain}"] = 100 * cider([text for text, _ in chosen], [some for _, some in chosen])
    return found


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values) if values else 0.0
