"""`blip2-chat compare`"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..checkpoint.embedded import EMBEDDED
from ..errors import Blip2ChatError, MissingExtraError
from .display.terminal import ProgressBar, note, say, say_json
from .options import AdapterName, Json, ModelName

if TYPE_CHECKING:
    from ..evaluation.compare import Contestant, Outcome, Questions
    from ..evaluation.streamed import StreamedOutcome

_SHOWN = 20


def compare(
    model: ModelName = EMBEDDED,
    adapter: AdapterName = None,
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
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="streamed",
            help="Compare int8 and int4 with the checkpoint's own fp32, run layer by layer: next tokens along fp32's "
            "answers and picture vectors, on a machine that cannot hold fp32.",
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

    if reference is not None:
        if reference != "streamed" or plot is not None:
            raise typer.BadParameter("--reference takes streamed, and goes without --plot")
        _streamed(model, adapter, Questions.open(asked, limit), only, force, as_json)
        return
    contestants = _chosen(only)
    if plot is not None:
        _require_matplotlib()
    questions = Questions.open(asked, limit)
    with ProgressBar(f"comparing {model}") as progress:
        outcomes = compare(model, questions, contestants, adapter=adapter, force=force, on_progress=progress)
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


def _streamed(
    model: str,
    adapter: str | None,
    questions: Questions,
    only: list[str] | None,
    force: bool,
    as_json: bool,
) -> None:
    from ..evaluation.streamed import PRECISIONS, StreamedComparison
    from ..sizes import gigabytes

    wanted = [name.removeprefix("onnx-") for name in only or PRECISIONS]
    unknown = [name for name in wanted if name not in PRECISIONS]
    if unknown:
        raise Blip2ChatError(
            f"{unknown[0]!r} cannot be compared with a streamed reference; choose from onnx-int8, onnx-int4"
        )
    with ProgressBar(f"comparing {model}") as progress:
        comparison = StreamedComparison(
            model, questions, wanted, adapter=adapter, force=force, on_progress=progress
        )
        progress.note(
            f"Each reading of fp32's weights goes through {gigabytes(comparison.bytes_per_reading)}; "
            f"about {_duration(comparison.estimated_seconds)} in all"
        )
        try:
            comparison.run()
        finally:
            progress.stop()
            # Also what there is when Ctrl-C ended it.
            if comparison.outcome.rows:
                _tell_streamed(model, questions, comparison.outcome, as_json)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _tell_streamed(model: str, questions: Questions, outcome: StreamedOutcome, as_json: bool) -> None:
    if as_json:
        for precision, fidelity in outcome.fidelity.items():
            answers = [
                {
                    "picture": row.item.picture,
                    "question": row.item.question,
                    "answer": row.answer,
                    "agreement": round(row.agreement[precision], 4),
                }
                for row in outcome.rows
            ]
            about = {"model": model, "set": questions.name, "reference": "fp32", "engine": "onnx"}
            say_json({**about, "precision": precision, **asdict(fidelity), "answers": answers})
        return
    first = next(iter(outcome.fidelity.values()))
    say(
        f"{model} on {questions.name}: {len(outcome.rows)} of {len(questions.items)} items, {first.tokens} next "
        f"tokens along fp32's answers, {first.pictures} pictures, {outcome.readings} readings of fp32"
    )
    say(f"{'':<12}  {'next token':>12}  {'whole answer':>12}  {'divergence':>12}  {'query vectors':>13}")
    for precision, one in outcome.fidelity.items():
        whole = sum(row.agreement[precision] == 1 for row in outcome.rows) / len(outcome.rows)
        say(
            f"onnx {precision:<7}  {one.agreement:>12.1%}  {whole:>12.1%}  {one.divergence:>7.4f} nats  "
            f"{one.vector_error:>12.2%}"
        )
    different = [row for row in outcome.rows if min(row.agreement.values()) < 1]
    for row in different[:_SHOWN]:
        said = ", ".join(f"{precision} {share:.0%}" for precision, share in row.agreement.items())
        say(
            f"- {Path(row.item.picture).name}: {row.item.question or 'caption'}: {row.answer} ({said} of its tokens)"
        )
    if len(different) > _SHOWN:
        say(f"… and {len(different) - _SHOWN} more: --json has every answer")


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
