"""`blip2-chat report`"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .display.terminal import ProgressBar, note, say

if TYPE_CHECKING:
    from ..search.store import Store


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
    index: Annotated[
        str | None,
        typer.Option(
            metavar="INDEX",
            help="An index of the pictures, which `blip2-chat index` made: each picture shows those most like it.",
        ),
    ] = None,
) -> None:
    """Make one HTML page of a run's results.

    The page has thumbnails, search, sorting by confidence, failed pictures, word frequencies and lengths, in one file
    that needs no network. A thumbnail is shown only if the picture is still the one that was captioned. With an index
    of the pictures, each leads to those that are most like it.
    """
    from ..batch.inputs.tables import Columns
    from ..batch.outputs.report import report as write
    from ..batch.storage import is_remote

    beside = os.path.basename(results) if is_remote(results) else results
    page = out or Path(os.path.splitext(beside)[0] + ".html")
    store = None if index is None else _opened(index)
    known = 0
    with ProgressBar("making thumbnails") as progress:

        def alike(digests: Collection[str]) -> Mapping[str, Sequence[str]]:
            nonlocal known
            from ..search.alike import most_alike

            assert store is not None
            found = most_alike(store, digests, on_progress=progress)
            known = len(found)
            return found

        shown = write(
            results,
            page,
            title=title,
            pictures=pictures or (),
            columns=Columns(column, name_column),
            alike=None if store is None else alike,
            on_progress=progress,
        )
    if store is not None and not known:
        note(f"none of the pictures is in {index}: was it made of these pictures?")
    noun = "picture" if shown == 1 else "pictures"
    note(f"{shown:,} {noun}, {page.stat().st_size / 1e6:.1f} MB")
    say(str(page))


def _opened(index: str) -> Store:
    """Before the thumbnails, which take long, so that a wrong name is told at once."""
    from ..search.indexing import place
    from ..search.store import Store

    return Store.open(place(index))
