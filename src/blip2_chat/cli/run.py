"""`blip2-chat run`"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from .display.run_progress import RunProgress, duration, named, pictures_noun, rate
from .display.terminal import note, say
from .metadata_options import MetadataOptions, tell_metadata
from .options import CHOICES_HELP, DecodingOptions, ModelOptions, Start, choices_of
from .stopping import FAILED_PICTURES, STOPPED, stopping

if TYPE_CHECKING:
    from ..batch.outputs.sidecar import Sidecar
    from ..batch.run import Run, RunOptions, Summary

_TASK = "Captions and questions"
_INPUT = "Input"
_PROGRESS = "Progress"
_SPEED = "Speed"


@dataclass(frozen=True)
class OutputOptions:
    """Where the results go."""

    heading: ClassVar[str] = "Output"

    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Output file: .parquet, .jsonl, .csv or .tar (WebDataset)."
        ),
    ] = None
    with_pictures: Annotated[
        bool, typer.Option("--with-pictures", help="Store the pictures in the .tar file as well.")
    ] = False
    sidecar: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="Write a text file next to each picture, with the extension txt or caption."
        ),
    ] = None
    prefix: Annotated[
        str, typer.Option(metavar="TEXT", help="Text before each caption in sidecar files.")
    ] = ""
    suffix: Annotated[str, typer.Option(metavar="TEXT", help="Text after each caption in sidecar files.")] = (
        ""
    )
    trigger: Annotated[
        str,
        typer.Option(metavar="WORD", help="Trigger word at the start of sidecar files, followed by a comma."),
    ] = ""
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Overwrite existing text files, and texts in metadata, of others."),
    ] = False
    append: Annotated[
        bool, typer.Option("--append", help="Add captions to the end of existing text files.")
    ] = False
    prepend: Annotated[
        bool, typer.Option("--prepend", help="Add captions to the beginning of existing text files.")
    ] = False
    progress: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Progress file (default: the output file with .progress added)."),
    ] = None

    def as_sidecar(self, has_metadata: bool) -> Sidecar | None:
        from ..batch.outputs.sidecar import Sidecar

        if self.sidecar is None:
            if self.prefix or self.suffix or self.trigger or self.append or self.prepend:
                raise typer.BadParameter(
                    "--prefix, --suffix, --trigger, --append and --prepend belong to --sidecar txt"
                )
            if self.overwrite and not has_metadata:
                raise typer.BadParameter("--overwrite belongs to --sidecar txt, --write xmp or --embed")
            return None
        if self.append and self.prepend:
            raise typer.BadParameter("give --append or --prepend, not both")
        return Sidecar(
            self.sidecar.lstrip("."),
            self.prefix,
            self.suffix,
            self.trigger,
            overwrite=self.overwrite,
            join="append" if self.append else "prepend" if self.prepend else None,
        )


@dataclass(frozen=True)
class RayOptions:
    """Many machines."""

    heading: ClassVar[str] = "Ray clusters"

    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Run on a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT."
        ),
    ] = None
    actors: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Number of models (default: as many as the cluster can hold)."),
    ] = None
    cpus: Annotated[float, typer.Option(metavar="N", min=0, help="CPU cores per model.")] = 1
    gpus: Annotated[float, typer.Option(metavar="N", min=0, help="GPUs per model.")] = 0


def run(
    pictures: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="A folder, a pattern such as 'photos/**/*.jpg', a list (.txt, or - for standard input), a table "
            "(.csv, .jsonl, .parquet), WebDataset shards (.tar) or a .zip file.",
        ),
    ],
    *,
    ask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QUESTION",
            help="Ask this question about each picture; may be repeated.",
            rich_help_panel=_TASK,
        ),
    ] = None,
    captions: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Number of captions per picture (default: 1, or 0 if there are questions).",
            rich_help_panel=_TASK,
        ),
    ] = None,
    choices: Annotated[
        str | None, typer.Option(metavar="A,B,...", help=CHOICES_HELP, rich_help_panel=_TASK)
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
            help="Skip matching files and folders, such as @eaDir; may be repeated.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Stop after the first N pictures.", rich_help_panel=_INPUT),
    ] = None,
    output: OutputOptions,
    metadata: MetadataOptions,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Process a few pictures, estimate the time for all, and write nothing.",
            rich_help_panel=_PROGRESS,
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Start over instead of resuming an earlier run.",
            rich_help_panel=_PROGRESS,
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Try pictures again that failed in an earlier run.",
            rich_help_panel=_PROGRESS,
        ),
    ] = False,
    start: Start = None,
    decoding: DecodingOptions,
    model: ModelOptions,
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
    cluster: RayOptions,
) -> None:
    """Caption a whole collection, or ask questions about each picture.

    Every result is saved before it is counted, so if a run is killed or interrupted, run the same command again to
    resume. A picture that cannot be read becomes a row with its error. Exit status: 0 success, 3 finished but some
    pictures failed (or their metadata could not be written), 130 stopped by Ctrl-C, 1 the run could not continue.
    """
    from ..batch.captioner import Tasks
    from ..batch.inputs.sources import stdin_list
    from ..batch.inputs.tables import Columns
    from ..batch.run import RunOptions

    questions = tuple(dict.fromkeys(ask or ()))
    if captions is None:
        captions = 0 if questions else 1
    options = RunOptions(
        sources=tuple(stdin_list() if one == "-" else one for one in pictures),
        tasks=Tasks(captions, questions, decoding.settings(), start, choices_of(choices)),
        out=output.out,
        with_pictures=output.with_pictures,
        sidecar=output.as_sidecar(metadata.is_given),
        metadata=metadata.as_metadata(output.overwrite),
        columns=Columns(column, name_column),
        exclude=tuple(exclude or ()),
        limit=limit,
        batch_size=batch_size,
        workers=workers,
        progress=output.progress,
        fresh=fresh,
        retry_failed=retry_failed,
        limits=model.picture_limits(),
    )
    if dry_run:
        _estimate(options, model)
    else:
        _run(options, model, cluster)


def _run(options: RunOptions, model: ModelOptions, cluster: RayOptions) -> None:
    from ..batch.run import Run

    model.tell_limits()
    with Run(options, _asked(model)) as task:
        if task.before:
            were = "was" if task.before == 1 else "were"
            note(
                f"{task.before:,} {pictures_noun(task.before)} {were} done before (in {task.progress}); going on"
            )
        with stopping(task):
            if cluster.ray is not None:
                from ..batch.ray_run import RayPlan, ray_batches

                plan = RayPlan(
                    cluster.ray, cluster.actors, cluster.cpus, cluster.gpus, model.loading(), options
                )
                with RunProgress(task.count) as progress:
                    summary = task.keep(ray_batches(task, plan), progress)
            else:
                running = _load(model, task)
                # Not before: loading has a bar of its own, and two at once leave one behind.
                with RunProgress(task.count) as progress:
                    summary = task.go(running, progress)
                running.close()
        _tell(task, summary)
    if summary.stopped:
        raise typer.Exit(STOPPED)
    if summary.failed or summary.metadata.get("failed"):
        raise typer.Exit(FAILED_PICTURES)


def _asked(model: ModelOptions) -> dict[str, Any]:
    return {
        "model": model.model,
        "revision": model.revision,
        "asked engine": model.engine,
        "asked precision": model.precision,
        # Only where it is given: runs that began before there was this option go on.
        **({"processor": model.processor} if model.processor else {}),
        **({"adapter": model.adapter} if model.adapter else {}),
    }


def _load(model: ModelOptions, task: Run) -> Any:
    """The model as asked for; what was left to `load` is what the run that is gone on with had."""
    from dataclasses import replace

    from ..batch.sizing import threads

    model = replace(model, threads=threads(model.model, model.threads))
    chosen = task.chosen()
    if model.engine == "auto" and "engine" in chosen:
        model = replace(model, engine=chosen["engine"])
    if model.precision == "auto" and "precision" in chosen:
        model = replace(model, precision=chosen["precision"])
    return model.load()


def _tell(task: Run, summary: Summary) -> None:
    parts = [f"{summary.rows:,} {pictures_noun(summary.rows)}"]
    if summary.done:
        parts.append(
            f"{summary.done:,} now in {duration(summary.seconds)} ({rate(summary.done, summary.seconds)})"
        )
    if summary.changed:
        parts.append(f"{summary.changed:,} changed since they were done before")
    if summary.duplicates:
        parts.append(f"{summary.duplicates:,} the same as another")
    parts.append(f"{summary.failed:,} failed")
    note(f"{'Stopped' if summary.stopped else 'Done'}: {', '.join(parts)}")
    sidecars = summary.sidecars
    if sidecars.get("kept"):
        were = "text file was" if sidecars["kept"] == 1 else "text files were"
        note(
            f"{sidecars['kept']:,} {were} there already and left alone (see --overwrite, --append and --prepend)"
        )
    if sidecars.get("nowhere"):
        note(f"{sidecars['nowhere']:,} pictures are no files of this machine and have no sidecar")
    tell_metadata(summary)
    if summary.failed:
        _tell_failures(task, summary)
    if summary.without_picture:
        note(
            f"{summary.without_picture:,} {pictures_noun(summary.without_picture)} could not be read again for "
            f"{task.options.out}, which has their rows alone"
        )
    if summary.passed_over:
        from ..batch.inputs.passed_over import told

        note(f"passed over: {told(summary.passed_over)}")
    if summary.stopped:
        note("the same command goes on from here")
    elif summary.failed:
        note("--retry-failed tries the failed pictures again")
    if task.options.out is not None:
        say(task.options.out)


def _tell_failures(task: Run, summary: Summary) -> None:
    """The first failed pictures, and where all of them are."""
    for path, error in summary.failures:
        note(f"  {named(path, error)}")
    out = task.options.out
    if more := summary.failed - len(summary.failures):
        where = f"--out FILE.csv --progress {shlex.quote(str(task.progress))} lists them all"
        if out is not None:
            where = f"all of them have an error in {out} (`blip2-chat report {shlex.quote(out)}` shows them)"
        note(f"  and {more:,} more: {where}")


def _estimate(options: RunOptions, model: ModelOptions) -> None:
    """--dry-run: a few pictures through the whole pipeline, and nothing written."""
    from ..batch.estimate import estimate

    model.tell_limits()
    running = model.load()
    found = estimate(options, running)
    engine = running.engine
    say(f"{found.pictures:,} {pictures_noun(found.pictures)}, {found.done:,} of them done before")
    say(f"model: {running.name} ({engine.name}, {engine.precision}), batches of up to {found.batch_size}")
    say(f"measured on {found.measured}: {rate(found.measured, found.seconds)}, {found.failed} failed")
    say(f"estimated: {duration(found.remaining_seconds)} for what is left")
    running.close()
