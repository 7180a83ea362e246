"""`blip2-chat index`"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from .display.run_progress import RunProgress, duration, named, pictures_noun, rate
from .display.terminal import note, say
from .options import IndexModelOptions
from .stopping import FAILED_PICTURES, STOPPED, stopping

if TYPE_CHECKING:
    from ..retriever import Retriever
    from ..search.indexing import Indexing, IndexOptions, Summary

_INPUT = "Input"
_PROGRESS = "Progress"
_SPEED = "Speed"


def index(
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="What `run` reads: a folder, a pattern such as 'photos/**/*.jpg', a list (.txt, or - for standard "
            "input), a table (.csv, .jsonl, .parquet), WebDataset shards (.tar) or a .zip file. None: those that the "
            "index was made of, to bring it up to date.",
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
            rich_help_panel=_INPUT,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column of a table that holds the pictures: paths, URLs or bytes.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    name_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Column of a table that names the pictures.", rich_help_panel=_INPUT
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Skip matching files and folders, such as @eaDir; may be repeated (default: as the last time).",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Stop after the first N pictures.", rich_help_panel=_INPUT),
    ] = None,
    keep_features: Annotated[
        bool,
        typer.Option(
            "--keep-features",
            help="Keep what the picture encoder makes of each picture (0.7 MB at the size of the official model), so "
            "that `search` need not encode pictures again.",
            rich_help_panel=_SPEED,
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Make the index anew.", rich_help_panel=_PROGRESS),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Try pictures again that could not be opened before.",
            rich_help_panel=_PROGRESS,
        ),
    ] = False,
    model: IndexModelOptions,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of pictures per batch (default: chosen by measuring).",
            rich_help_panel=_SPEED,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of threads that open pictures (default: one per core).",
            rich_help_panel=_SPEED,
        ),
    ] = None,
) -> None:
    """Make an index of pictures, for `search`, or bring it up to date.

    Every picture is stored before it is counted, so if the command is killed or interrupted, run it again to resume.
    Pictures that are new or have changed since are indexed, and those that have vanished are removed. Exit status: 0
    success, 3 finished but some pictures failed, 130 stopped by Ctrl-C, 1 it could not continue.
    """
    from ..batch.inputs.lists import stdin_lines
    from ..batch.inputs.tables import Columns
    from ..search.indexing import Indexing, IndexOptions

    options = IndexOptions(
        out=out,
        sources=tuple(path for one in pictures or () for path in (stdin_lines() if one == "-" else (one,))),
        without=tuple(without or ()),
        columns=Columns(column, name_column),
        exclude=None if exclude is None else tuple(exclude),
        keep_features=keep_features,
        limit=limit,
        batch_size=batch_size,
        workers=workers,
        fresh=fresh,
        retry_failed=retry_failed,
        revision=model.revision,
        processor=model.processor,
    )
    with Indexing(options) as task:
        if task.before:
            were = "is" if task.before == 1 else "are"
            note(f"{task.before:,} {pictures_noun(task.before)} {were} in {out} from before; going on")
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
    for path, error in summary.failures:
        note(f"  {named(path, error)}")
    if more := summary.failed - len(summary.failures):
        note(f"  and {more:,} more")
    if summary.passed_over:
        from ..batch.inputs.passed_over import told

        note(f"passed over: {told(summary.passed_over)}")
    if (found := summary.approximate) is not None:
        note(
            f"approximate search: {found.recall:.1%} of the first {found.of} results of an exact one "
            f"(`search --exact` for all)"
        )
    if summary.stopped:
        note("the same command goes on from here")
    elif summary.failed:
        note("--retry-failed tries the failed pictures again")
    say(options.out)
