"""`blip2-chat evaluate --retrieval`"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from .display.terminal import ProgressBar, note, say, say_json
from .options import ModelOptions, RetrieverOptions
from .scores import say_scores, scores_entry

if TYPE_CHECKING:
    from ..evaluation.benchmarks import Benchmark
    from ..evaluation.retrieval_run import RetrievalRun


def evaluate_retrieval(
    model: ModelOptions, benchmark: Benchmark, candidates: int, save: Path | None, as_json: bool
) -> None:
    """Measures recall and prints it, also what there is of it when Ctrl-C ended it."""
    from ..evaluation.retrieval_run import RetrievalRun

    run = RetrievalRun(_options(model).load(), benchmark, candidates, save)
    if run.resumed:
        note(f"{run.resumed:,} pictures are in {save} already, {run.reranked:,} of them matched")
    with ProgressBar(f"evaluating on {benchmark.name}") as progress:
        try:
            run.run(progress)
        finally:
            progress.stop()
            if run.embedded:
                _tell(run, as_json)


def _options(model: ModelOptions) -> RetrieverOptions:
    """The same options for a retrieval model; without a name its own default."""
    from ..checkpoint.embedded import default_retriever

    given = {one.name: getattr(model, one.name) for one in fields(RetrieverOptions)}
    return RetrieverOptions(**given | {"model": default_retriever() if model.is_embedded else model.model})


def _tell(run: RetrievalRun, as_json: bool) -> None:
    from ..evaluation.presets import RETRIEVAL, published

    benchmark, engine = run.benchmark, run.retriever.engine
    figures = run.scores()
    source = published(run.retriever.name, benchmark.name, RETRIEVAL)
    if as_json:
        say_json(
            {
                "model": run.retriever.name,
                "engine": engine.name,
                "precision": engine.precision,
                "benchmark": benchmark.name,
                "candidates": run.candidates,
                "pictures": len(benchmark.cases),
                "embedded": run.embedded,
                "matched": run.reranked,
                "total": benchmark.total,
                **scores_entry(figures, source),
                "seconds": round(run.seconds, 1),
            }
        )
        return
    say(
        f"{run.retriever.name} ({engine.name}, {engine.precision}) on {benchmark.name}: "
        f"{run.reranked:,} of {benchmark.total:,} pictures, {run.candidates} candidates, {run.seconds:.0f} s"
    )
    say_scores(figures, source, 27)
    if not run.is_whole:
        note(f"recall needs all pictures: {run.embedded:,} are embedded and {run.reranked:,} matched so far")
    elif source and len(benchmark.cases) < benchmark.total:
        note(f"The published figures are for all {benchmark.total:,} pictures")
