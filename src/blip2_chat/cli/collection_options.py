"""What the commands that work through a collection share: which pictures, how fast, and the lines at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from .display.run_progress import named, pictures_noun
from .display.terminal import note

if TYPE_CHECKING:
    from ..batch.inputs.tables import Columns

INPUT = "Input"
PROGRESS = "Progress"
SPEED = "Speed"

SOURCES_HELP = (
    "A folder, a pattern such as 'photos/**/*.jpg', a list (.txt, or - for standard input), a table (.csv, .jsonl, "
    ".parquet), WebDataset shards (.tar) or a .zip file."
)

RetryFailed = Annotated[
    bool,
    typer.Option("--retry-failed", help="Try pictures again that failed earlier.", rich_help_panel=PROGRESS),
]


@dataclass(frozen=True)
class InputOptions:
    """Which pictures of the sources."""

    heading: ClassVar[str] = INPUT

    column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of a table that holds the pictures: paths, URLs or bytes."),
    ] = None
    name_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of a table that names the pictures.")
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Skip matching files and folders, such as @eaDir; may be repeated."
        ),
    ] = None
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Stop after the first N pictures.")
    ] = None

    def columns(self) -> Columns:
        from ..batch.inputs.tables import Columns

        return Columns(self.column, self.name_column)


@dataclass(frozen=True)
class SpeedOptions:
    """How much is done at once."""

    heading: ClassVar[str] = SPEED

    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Number of pictures per batch (default: chosen by measuring)."),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Number of threads that open pictures (default: one per core)."
        ),
    ] = None


def tell_before(count: int, done: str) -> None:
    """What an earlier run left, and that this one goes on; `done` is such as "done before"."""
    if count:
        note(f"{count:,} {pictures_noun(count)} {'was' if count == 1 else 'were'} {done}; resuming")


def tell_failures(failures: Iterable[tuple[str, str]], more: int, where: str = "") -> None:
    """The first failed pictures with their errors, and how many more there are."""
    for path, error in failures:
        note(f"  {named(path, error)}")
    if more:
        note(f"  and {more:,} more{f': {where}' if where else ''}")


def tell_passed_over(counts: Mapping[str, int]) -> None:
    """The files that are no pictures, by kind."""
    if counts:
        from ..batch.inputs.passed_over import told

        note(f"passed over: {told(counts)}")


def tell_next(stopped: bool, failed: int) -> None:
    """What to do about a run that is not complete."""
    if stopped:
        note("run the same command again to resume")
    elif failed:
        note("--retry-failed tries the failed pictures again")
