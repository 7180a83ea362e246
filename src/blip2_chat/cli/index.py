"""`blip2-chat index`"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from .collection_options import (
    INPUT,
    PROGRESS,
    SOURCES_HELP,
    SPEED,
    InputOptions,
    RetryFailed,
    SpeedOptions,
    tell_before,
    tell_failures,
    tell_next,
    tell_passed_over,
)
from .display.run_progress import RunProgress, duration, pictures_noun, rate
from .display.terminal import note, say
from .options import IndexModelOptions
from .stopping import FAILED_PICTURES, STOPPED, stopping

if TYPE_CHECKING:
    from ..retriever import Retriever
    from ..search.indexing import Indexing, IndexOptions, Summary


def index(
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help=f"{SOURCES_HELP} Without one, the index is brought up to date with the sources it was made from.",
        ),
    ] = None,
    *,
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", metavar="INDEX", help="The index: a folder to make, or s3://BUCKET/NAME."
        ),
    ],
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Take this source and its pictures out of the index; may be repeated.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    source: InputOptions,
    keep_features: Annotated[
        bool,
        typer.Option(
            "--keep-features",
            help="Store the encoded pictures (0.7 MB each with the official model), so that `search` need not encode "
            "them again when it ranks results.",
            rich_help_panel=SPEED,
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start over: discard what the index holds.", rich_help_panel=PROGRESS),
    ] = False,
    retry_failed: RetryFailed = False,
    model: IndexModelOptions,
    speed: SpeedOptions,
) -> None:
    """Make an index of pictures, for `search`, or bring it up to date.

    Every picture is stored before it is counted, so if the command is killed or interrupted, run it again to resume.
    Pictures that are new or have changed since are indexed, and those that have vanished are removed. Exit status: 0
    success, 3 finished but some pictures failed, 130 stopped by Ctrl-C, 1 it could not continue.
    """
    from ..batch.inputs.lists import stdin_lines
    from ..search.indexing import Indexing, IndexOptions

    options = IndexOptions(
        out=out,
        sources=tuple(path for one in pictures or () for path in (stdin_lines() if one == "-" else (one,))),
        without=tuple(without or ()),
        columns=source.columns(),
        exclude=None if source.exclude is None else tuple(source.exclude),
        keep_features=keep_features,
        limit=source.limit,
        batch_size=speed.batch_size,
        workers=speed.workers,
        fresh=fresh,
        retry_failed=retry_failed,
        revision=model.revision,
        processor=model.processor,
    )
    with Indexing(options) as task:
        tell_before(task.before, f"in {out} from before")
        with stopping(task):
            summary = _go(task, _load(task, model))
    _tell(options, summary)
    if summary.stopped:
        raise typer.Exit(STOPPED)
    if summary.failed:
        raise typer.Exit(FAILED_PICTURES)


def _load(task: Indexing, model: IndexModelOptions) -> Retriever:
    """The model as asked for; what is not said is as in the index that is there."""
    from ..checkpoint.embedded import default_retriever

    if task.about is None:
        model = replace(model, model=model.model or default_retriever())
    else:
        maker = task.about.maker
        same = not model.model or model.model == maker.name
        model = replace(
            model,
            model=model.model or maker.name,
            precision=maker.precision if model.precision == "auto" and same else model.precision,
            engine=maker.engine if model.engine == "auto" and same else model.engine,
            revision=model.revision or (maker.revision if same else None),
            processor=model.processor or (maker.processor if same else None),
        )
    retriever = model.load()
    model.tell_limits()
    return retriever


def _go(task: Indexing, retriever: Retriever) -> Summary:
    try:
        with RunProgress(task.count) as progress:
            return task.go(retriever, progress)
    finally:
        retriever.close()


def _tell(options: IndexOptions, summary: Summary) -> None:
    parts = [f"{summary.rows:,} {pictures_noun(summary.rows)}"]
    if summary.done:
        parts.append(
            f"{summary.done:,} now in {duration(summary.seconds)} ({rate(summary.done, summary.seconds)})"
        )
    if summary.changed:
        parts.append(f"{summary.changed:,} changed since they were indexed before")
    if summary.vanished:
        parts.append(f"{summary.vanished:,} no longer there and removed")
    if summary.duplicates:
        parts.append(f"{summary.duplicates:,} the same as another")
    parts.append(f"{summary.failed:,} failed")
    note(f"{'Stopped' if summary.stopped else 'Done'}: {', '.join(parts)}")
    tell_failures(summary.failures, summary.failed - len(summary.failures))
    tell_passed_over(summary.passed_over)
    if (found := summary.approximate) is not None:
        note(
            f"approximate search: {found.recall:.1%} of the first {found.of} results of an exact one "
            f"(`search --exact` for all)"
        )
    tell_next(summary.stopped, summary.failed)
    say(options.out)
