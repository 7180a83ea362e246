"""`blip2-chat evaluate`"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Blip2ChatError
from .display.terminal import ProgressBar, note, say, say_json
from .options import Json, ModelOptions
from .retrieval_scores import evaluate_retrieval
from .scores import say_scores, scores_entry

if TYPE_CHECKING:
    from ..evaluation.benchmark_run import BenchmarkRun
    from ..evaluation.benchmarks import Benchmark
    from ..evaluation.compare import Questions
    from ..evaluation.held_out import HeldOut, Report
    from ..model import Model


_QUESTIONS = "Questions and captions"


def evaluate(
    model: ModelOptions,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SET",
            help="Questions to ask: seen, unseen, a held-out zip file, or your own JSON lines or CSV file with "
            "picture, question and answer; may be repeated (default: seen and unseen).",
            rich_help_panel=_QUESTIONS,
        ),
    ] = None,
    vqa: Annotated[
        tuple[Path, Path, Path] | None,
        typer.Option(
            metavar="FILE FILE FOLDER",
            help="VQAv2 or OK-VQA: the questions file, the annotations file, and the folder of pictures.",
            rich_help_panel=_QUESTIONS,
        ),
    ] = None,
    gqa: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FILE FOLDER",
            help="GQA: the questions file and the folder of pictures.",
            rich_help_panel=_QUESTIONS,
        ),
    ] = None,
    captions: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FILE FOLDER",
            help="Captions: Karpathy's dataset_coco.json or annotations of COCO or NoCaps, and the folder of "
            "pictures.",
            rich_help_panel=_QUESTIONS,
        ),
    ] = None,
    retrieval: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FILE FOLDER",
            help="Retrieval, for models such as Salesforce/blip2-itm-vit-g: what --captions reads, or Karpathy's "
            "dataset_flickr30k.json.",
            rich_help_panel=_QUESTIONS,
        ),
    ] = None,
    candidates: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="With --retrieval: number of candidates that the model reads again together.",
            rich_help_panel=_QUESTIONS,
        ),
    ] = 128,
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Pictures of Karpathy's file to use: test, val or train.",
            rich_help_panel=_QUESTIONS,
        ),
    ] = "test",
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Prompt and decoding settings: blip2-vqa (from the paper, the default), lavis-vqa, "
            "blip2-caption (default for captions), chat.",
            rich_help_panel=_QUESTIONS,
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Save each answer to this JSON lines file; run the same command again to resume.",
            rich_help_panel=_QUESTIONS,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Use only the first N questions and the first N captions of each set.",
            rich_help_panel=_QUESTIONS,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy on questions and captions.

    The questions are held-out ones, your own, or those of VQAv2, OK-VQA or GQA; the captions are those of COCO or
    NoCaps. By default, these are the held-out sets of the embedded model, whose results are in the model card.
    --retrieval measures how well a retrieval model finds texts by pictures and pictures by texts. Ctrl-C prints the
    score so far.
    """
    benchmarks = [one for one in (vqa, gqa, captions, retrieval) if one is not None]
    if not benchmarks:
        if preset is not None or save is not None:
            raise typer.BadParameter("--preset and --save need --vqa, --gqa, --captions or --retrieval")
        _on_sets(model, sets, limit, as_json)
        return
    if sets or len(benchmarks) > 1:
        raise typer.BadParameter("give one of --set, --vqa, --gqa, --captions and --retrieval")
    if retrieval is not None:
        if preset is not None or model.adapter is not None:
            raise typer.BadParameter("--retrieval has no --preset and takes no --adapter")
        from ..evaluation.benchmarks import open_captions

        evaluate_retrieval(model, open_captions(*retrieval, limit, split), candidates, save, as_json)
        return
    _on_benchmark(model, _open_benchmark(vqa, gqa, captions, split, limit), preset, save, as_json)


def _on_sets(model: ModelOptions, sets: list[str] | None, limit: int | None, as_json: bool) -> None:
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


def _open_benchmark(
    vqa: tuple[Path, Path, Path] | None,
    gqa: tuple[Path, Path] | None,
    captions: tuple[Path, Path] | None,
    split: str,
    limit: int | None,
) -> Benchmark:
    from ..evaluation.benchmarks import open_captions, open_gqa, open_vqa

    if vqa is not None:
        return open_vqa(*vqa, limit)
    if gqa is not None:
        return open_gqa(*gqa, limit)
    assert captions is not None
    return open_captions(*captions, limit, split)


def _on_benchmark(
    model: ModelOptions, benchmark: Benchmark, preset: str | None, save: Path | None, as_json: bool
) -> None:
    from ..evaluation.benchmark_run import BenchmarkRun
    from ..evaluation.presets import preset_for

    chosen = preset_for(benchmark.task, preset)
    running = model.load()
    run = BenchmarkRun(running, benchmark, chosen, save)
    if run.resumed:
        note(f"{run.resumed} answers are in {save} already")
    with ProgressBar(f"evaluating on {benchmark.name}") as progress:
        try:
            run.run(progress)
        finally:
            progress.stop()
            # Also what there is when Ctrl-C or an unreadable picture ended it.
            if run.answers:
                _tell_benchmark(run, as_json)


def _tell_benchmark(run: BenchmarkRun, as_json: bool) -> None:
    from ..evaluation.presets import published

    benchmark, engine = run.benchmark, run.model.engine
    figures = run.scores()
    if benchmark.kind == "captions" and len(run.answers) == len(benchmark.cases):
        figures |= _spice(run)
    source = published(run.model.name, benchmark.name, run.preset.name)
    asked = len(run.answered)
    if as_json:
        say_json(
            {
                "model": run.model.name,
                "engine": engine.name,
                "precision": engine.precision,
                "benchmark": benchmark.name,
                "preset": run.preset.name,
                "answered": asked,
                "total": benchmark.total,
                **scores_entry(figures, source),
                "seconds": round(run.seconds, 1),
            }
        )
        return
    what = "pictures" if benchmark.kind == "captions" else "questions"
    say(
        f"{run.model.name} ({engine.name}, {engine.precision}) on {benchmark.name}, preset {run.preset.name}: "
        f"{asked:,} of {benchmark.total:,} {what}, {run.seconds:.0f} s"
    )
    say_scores(figures, source, 18)
    if source and asked < benchmark.total:
        note(f"The published figures are for all {benchmark.total:,} {what}")


def _spice(run: BenchmarkRun) -> dict[str, float]:
    """SPICE, or a line on stderr that says what it lacks."""
    from ..evaluation.spice import spice, why_not

    reason = why_not()
    if reason is None:
        try:
            pairs = run.answered
            return {"SPICE": 100 * spice([text for _, text in pairs], [one.expected for one, _ in pairs])}
        except Blip2ChatError as error:
            reason = str(error)
    note(reason)
    return {}


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
