"""`blip2-chat evaluate`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Json, ModelOptions
from .terminal import ProgressBar, say, say_json

if TYPE_CHECKING:
    from ..evaluate import Report
    from ..model import Model


def evaluate(
    model: ModelOptions,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="SET", help="seen, unseen, or the path of a zip; may repeat. Default: both."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Only the first so many questions, and captions, of a set."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy on held-out questions and captions.

    The figures of the model card are those of the embedded model on both of its sets.
    """
    from ..evaluate import SETS, Evaluation, HeldOut

    held_out = {name: HeldOut.open(name) for name in sets or SETS}
    running = model.load()
    for name, one in held_out.items():
        evaluation = Evaluation(running, one, limit)
        try:
            with ProgressBar(f"evaluating on {name}") as progress:
                evaluation.run(progress)
        finally:
            # Also what there is when ctrl-C broke it off; the counts say of how many.
            if evaluation.report.asked or evaluation.report.captions:
                _tell(running, name, evaluation.report, as_json)


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
