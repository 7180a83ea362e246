"""`blip2-chat run`"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from .collection_options import (
    PROGRESS,
    SOURCES_HELP,
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
from .metadata_options import MetadataOptions, tell_metadata
from .options import CHOICES_HELP, DecodingOptions, ModelOptions, Start, choices_of
from .stopping import FAILED_PICTURES, STOPPED, stopping

if TYPE_CHECKING:
    from ..batch.options import RunOptions
    from ..batch.outputs.sidecar import Sidecar
    from ..batch.run import Run, Summary

_TASK = "Captions and questions"


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
    pictures: Annotated[list[str], typer.Argument(metavar="SOURCE", help=SOURCES_HELP)],
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
    source: InputOptions,
    output: OutputOptions,
    metadata: MetadataOptions,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Process a few pictures, estimate the time for all, and write nothing.",
            rich_help_panel=PROGRESS,
        ),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Start over instead of resuming an earlier run.",
            rich_help_panel=PROGRESS,
        ),
    ] = False,
    retry_failed: RetryFailed = False,
    start: Start = None,
    decoding: DecodingOptions,
    model: ModelOptions,
    speed: SpeedOptions,
    cluster: RayOptions,
) -> None:
    """Caption a whole collection, or ask questions about each picture.

    Every result is saved before it is counted, so if a run is killed or interrupted, run the same command again to
    resume. A picture that cannot be read becomes a row with its error. Exit status: 0 success, 3 finished but some
    pictures failed (or their metadata could not be written), 130 stopped by Ctrl-C, 1 the run could not continue.
    """
    from ..batch.captioner import Tasks
    from ..batch.inputs.sources import stdin_list
    from ..batch.options import RunOptions

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
        columns=source.columns(),
        exclude=tuple(source.exclude or ()),
        limit=source.limit,
        batch_size=speed.batch_size,
        workers=speed.workers,
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
        tell_before(task.before, f"done before (in {task.progress})")
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
    """The model as asked for. An "auto" is replaced by what the resumed run had."""
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
        note(f"{sidecars['nowhere']:,} pictures are not files on this machine and have no sidecar")
    tell_metadata(summary)
    tell_failures(summary.failures, summary.failed - len(summary.failures), _all_failures(task))
    if summary.without_picture:
        note(
            f"{summary.without_picture:,} {pictures_noun(summary.without_picture)} could not be read again for "
            f"{task.options.out}, which has their rows alone"
        )
    tell_passed_over(summary.passed_over)
    tell_next(summary.stopped, summary.failed)
    if task.options.out is not None:
        say(task.options.out)


def _all_failures(task: Run) -> str:
    """Where every failed picture is listed."""
    out = task.options.out
    if out is None:
        return f"--out FILE.csv --progress {shlex.quote(str(task.progress))} lists them all"
    return f"all of them have an error in {out} (`blip2-chat report {shlex.quote(out)}` shows them)"


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
