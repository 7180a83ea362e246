"""`blip2-chat compare`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoint.embedded import EMBEDDED
from ..errors import Blip2ChatError, MissingExtraError
from .display.terminal import ProgressBar, note, say, say_json
from .options import Json, ModelName

if TYPE_CHECKING:
    from ..evaluation.compare import Contestant, Outcome, Questions

_SHOWN = 20


def compare(
    model: ModelName = EMBEDDED,
    asked: Annotated[
        str,
        typer.Option(
            "--set",
            metavar="SET",
            help="Questions to ask: seen, unseen, a held-out zip file, or your own JSON lines or CSV file with "
            "picture, question and answer.",
        ),
    ] = "seen",
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Use only the first N questions and the first N captions."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME",
            help="Engine and precision to compare, such as onnx-int8; may be repeated (default: all).",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw a plot (.png, .svg or .pdf).")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Load models even if the memory check says they will not fit.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare precisions: accuracy, memory and speed.

    Every available engine and precision answers the same questions about the same pictures, each in a process
    of its own.
    """
    from ..evaluation.compare import Questions, compare

    contestants = _chosen(only)
    if plot is not None:
        _require_matplotlib()
    questions = Questions.open(asked, limit)
    with ProgressBar(f"comparing {model}") as progress:
        outcomes = compare(model, questions, contestants, force=force, on_progress=progress)
    for one in outcomes:
        if one.failed is not None:
            note(f"{one.contestant.name}: {one.failed}")
    if all(one.failed is not None for one in outcomes):
        raise Blip2ChatError(f"nothing could run {model}")
    if as_json:
        for one in outcomes:
            say_json(_entry(one, questions))
    else:
        _tell(model, questions, outcomes)
    if plot is not None:
        _draw(plot, model, questions, outcomes)


def _chosen(only: list[str] | None) -> list[Contestant]:
    from ..evaluation.compare import Contestant, at_hand

    found = at_hand()
    if not only:
        return found
    wanted = []
    for name in only:
        engine, _, precision = name.partition("-")
        if Contestant(engine, precision) not in found:
            known = ", ".join(f"{one.engine}-{one.precision}" for one in found)
            raise Blip2ChatError(f"{name!r} is not available here; choose from {known}")
        wanted.append(Contestant(engine, precision))
    return wanted


def _tell(model: str, questions: Questions, outcomes: list[Outcome]) -> None:
    from ..evaluation.compare import disagreements
    from ..sizes import gigabytes

    answered = [one for one in outcomes if one.failed is None]
    captions = sum(item.question is None for item in questions.items)
    say(f"{model} on {questions.name}: {len(questions.items) - captions} questions, {captions} captions")
    scores = [one.scores(questions.items) for one in answered]
    head = [*scores[0], "memory", "load", "answer"]
    say("  ".join([f"{'':<12}", *(f"{name:>12}" for name in head)]))
    for one, figures in zip(answered, scores, strict=True):
        cells = [f"{value:.2f}" if name == "CIDEr" else f"{value:.1%}" for name, value in figures.items()]
        cells += [gigabytes(one.memory), f"{one.load_seconds:.1f} s", f"{one.answer_seconds:.3f} s"]
        say("  ".join([f"{one.contestant.name:<12}", *(f"{cell:>12}" for cell in cells)]))
    different = list(disagreements(questions, answered))
    say(f"They disagree on {len(different)} of {len(questions.items)}.")
    for item, said in different[:_SHOWN]:
        say(f"- {Path(item.picture).name}: {item.question or 'caption'} ({item.expected[0]})")
        for one, text in zip(answered, said, strict=True):
            say(f"    {one.contestant.name:<12}  {text}")
    if len(different) > _SHOWN:
        say(f"… and {len(different) - _SHOWN} more: --json has every answer")


def _entry(one: Outcome, questions: Questions) -> dict[str, Any]:
    entry: dict[str, Any] = {"engine": one.contestant.engine, "precision": one.contestant.precision}
    if one.failed is not None:
        return {**entry, "error": one.failed}
    scores = {
        name.lower().replace(" ", "_"): round(value, 4) for name, value in one.scores(questions.items).items()
    }
    return {
        **entry,
        "set": questions.name,
        **scores,
        "memory": one.memory,
        "load_seconds": round(one.load_seconds, 3),
        "answer_seconds": round(one.answer_seconds, 4),
        "answers": [
            {
                "picture": item.picture,
                "question": item.question,
                "expected": item.expected[0],
                "answer": answer,
            }
            for item, answer in zip(questions.items, one.answers, strict=True)
        ],
    }


def _require_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise MissingExtraError("--plot (matplotlib)", "notebook")


def _draw(path: Path, model: str, questions: Questions, outcomes: list[Outcome]) -> None:
    """Bars side by side: accuracy, memory, seconds per answer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    answered = [one for one in outcomes if one.failed is None]
    names = [one.contestant.name for one in answered]
    scores = [one.scores(questions.items) for one in answered]
    panels = [(name, [figures[name] for figures in scores]) for name in scores[0]]
    panels += [
        ("memory, GB", [one.memory / 1e9 for one in answered]),
        ("seconds per answer", [one.answer_seconds for one in answered]),
    ]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(3 * len(panels), 0.5 * len(names) + 1.2), sharey=True
    )
    for axis, (title, values) in zip(axes, panels, strict=True):
        axis.bar_label(axis.barh(names, values, color="#2f6fde"), fmt="{:.3g}", padding=3, fontsize=9)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlim(0, (max(values) or 1) * 1.25)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_xticks([])
    axes[0].invert_yaxis()
    figure.suptitle(f"{model} on {questions.name}", x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise Blip2ChatError(f"{path} cannot be written: {error}") from None
    note(f"drawn in {path}")
