"""`blip2-chat report`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import ProgressBar, note, say


def report(
    results: Annotated[
        str, typer.Argument(metavar="RESULTS", help="What `run` wrote: .parquet, .jsonl, .csv or .tar.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="The page (RESULTS with .html).")
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="The page's title.")] = None,
) -> None:
    """Write a run's result as one HTML page.

    Thumbnails, search, order by confidence, the failed ones, word frequencies and lengths, all in one file that
    needs no network.
    """
    from ..batch.report import report as write

    page = out or Path(results).with_suffix(".html")
    with ProgressBar("making thumbnails") as progress:
        shown = write(results, page, title=title, on_progress=progress)
    note(f"{shown:,} pictures, {page.stat().st_size / 1e6:.1f} MB")
    say(str(page))
