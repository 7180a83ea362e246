"""`blip2-chat report`"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .display.terminal import ProgressBar, note, say


def report(
    results: Annotated[
        str, typer.Argument(metavar="RESULTS", help="What `run` wrote: .parquet, .jsonl, .csv or .tar.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="The page (RESULTS with .html; of remote ones, here)."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="The page's title.")] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PICTURES",
            help="Where to look for the pictures, as `run` takes it, if they were moved; may repeat.",
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of a table that has the pictures.")
    ] = None,
    name_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of a table that has their names.")
    ] = None,
) -> None:
    """Write a run's result as one HTML page.

    Thumbnails, search, order by confidence, the failed ones, word frequencies and lengths, all in one file that
    needs no network. A thumbnail is shown only if the picture is still the one that was captioned.
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
