"""`blip2-chat report`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .display.terminal import ProgressBar, note, say


def report(
    results: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="A file that `run` wrote: .parquet, .jsonl, .csv or .tar."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The page to write (default: RESULTS with the extension .html).",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Title of the page.")] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the pictures are now, if they were moved: any source that `run` accepts; may be repeated.",
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of a table that holds the pictures.")
    ] = None,
    name_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of a table that names the pictures.")
    ] = None,
) -> None:
    """Make one HTML page of a run's results.

    The page has thumbnails, search, sorting by confidence, failed pictures, word frequencies and lengths, in one file
    that needs no network. A thumbnail is shown only if the picture is still the one that was captioned.
    """
    from ..batch.inputs.tables import Columns
    from ..batch.outputs.report import report as write
    from ..batch.storage import is_remote

    beside = os.path.basename(results) if is_remote(results) else results
    page = out or Path(os.path.splitext(beside)[0] + ".html")
    with ProgressBar("making thumbnails") as progress:
        shown = write(
            results,
            page,
            title=title,
            pictures=pictures or (),
            columns=Columns(column, name_column),
            on_progress=progress,
        )
    noun = "picture" if shown == 1 else "pictures"
    note(f"{shown:,} {noun}, {page.stat().st_size / 1e6:.1f} MB")
    say(str(page))
