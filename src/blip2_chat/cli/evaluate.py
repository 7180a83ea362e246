"""`blip2-chat evaluate`"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .display.terminal import ProgressBar, say, say_json
from .options import Json, ModelOptions

if TYPE_CHECKING:
    from ..evaluation.compare import Questions
    from ..evaluation.held_out import HeldOut, Report
    from ..model import Model


def evaluate(
    model: ModelOptions,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SET",
            help="Questions to ask: seen, unseen, a held-out zip file, or your own JSON lines or CSV file with "
            "picture, question and answer; may be repeated (default: seen and unseen).",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Use only the first N questions and the first N captions of each set."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy on held-out questions and captions.

    The model card has the results of the embedded model on its two sets.
    """
    from ..evaluation.compare import Questions, is_own
    from ..evaluation.held_out import SETS, HeldOut

    # All of them before the model, whose loading may take minutes.
    opened = {
        name: Questions.open(name, limit) if is_own(name) else HeldOut.open(name) for name in sets or SETS
    }
    running = model.load()
    for name, one in opened.items():
        with ProgressBar(f"evaluating on {name}") as progress:
            if isinstance(one, Questions):
                _on_questions(running, one, as_json, progress)
            else:
                _on_held_out(running, name, one, limit, as_json, progress)


def _on_held_out(
    model: Model, name: str, held_out: HeldOut, limit: int | None, as_json: bool, progress: ProgressBar
) -> None:
    from ..evaluation.held_out import Evaluation

    evaluation = Evaluation(model, held_out, limit)
    try:
        evaluation.run(progress)
    finally:
        progress.stop()
        # Also what there is when Ctrl-C ended it; the counts say of how many.
        if evaluation.report.asked or evaluation.report.captions:
            _tell(model, name, evaluation.report, as_json)


def _on_questions(model: Model, questions: Questions, as_json: bool, progress: ProgressBar) -> None:
    """A user's own file, scored as `compare` scores it."""
    from ..evaluation.compare import answered

    answers: list[str] = []
    started = time.perf_counter()
    try:
        for answer in answered(model, questions):
            answers.append(answer)
            progress("questions", len(answers), len(questions.items))
    finally:
        progress.stop()
        if answers:
            _tell_scores(model, questions, answers, time.perf_counter() - started, as_json)


def _tell_scores(
    model: Model, questions: Questions, answers: list[str], seconds: float, as_json: bool
) -> None:
    from ..evaluation.compare import scores

    items = questions.items[: len(answers)]
    figures = scores(items, answers)
    captions = sum(item.question is None for item in items)
    engine = model.engine
    if as_json:
        named = {name.lower().replace(" ", "_"): round(value, 4) for name, value in figures.items()}
        about = {"model": model.name, "engine": engine.name, "precision": engine.precision}
        counts = {"questions": len(items) - captions, "captions": captions}
        say_json({**about, "set": questions.name, **counts, **named, "seconds": round(seconds, 1)})
        return
    say(f"{model.name} ({engine.name}, {engine.precision}) on {questions.name}, {seconds:.0f} s")
    for name, value in figures.items():
        if name == "CIDEr":
            say(f"  {name:<16} {value:7.2f}   {captions} captions")
        else:
            say(_line(name, value, f"{len(items) - captions} questions"))


def _tell(model: Model, name: str, report: Report, as_json: bool) -> None:
    if as_json:
        say_json(_as_json(model, name, report))
        return
    engine = model.engine
    say(f"{model.name} ({engine.name}, {engine.precision}) on {name}, {report.seconds:.0f} s")
    if report.asked:
        counts = f"{report.right.total()} of {report.asked.total()} questions"
        say(_line("exact match", report.exact_match, counts))
    for task in sorted(report.asked):
        counts = f"{report.right[task]} of {report.asked[task]}"
        say(_line(f"  {task}", report.task_match(task), counts))
    if report.captions:
        shares = f"precision {report.precision:.1%}, recall {report.recall:.1%}"
        say(_line("caption F1", report.caption_f1, f"objects of {report.captions} captions; {shares}"))


def _line(name: str, share: float, counts: str) -> str:
    return f"  {name:<16} {share:7.1%}   {counts}"


def _as_json(model: Model, name: str, report: Report) -> dict[str, Any]:
    return {
        "model": model.name,
        "engine": model.engine.name,
        "precision": model.engine.precision,
        "set": name,
        "questions": report.asked.total(),
        "exact_match": round(report.exact_match, 4),
        "tasks": {
            task: {"questions": report.asked[task], "exact_match": round(report.task_match(task), 4)}
            for task in sorted(report.asked)
        },
        "captions": report.captions,
        "caption_exact_match": round(report.caption_match, 4),
        "caption_precision": round(report.precision, 4),
        "caption_recall": round(report.recall, 4),
        "caption_f1": round(report.caption_f1, 4),
        "seconds": round(report.seconds, 1),
    }
