"""`blip2-chat search`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .display.run_progress import duration
from .display.terminal import ProgressBar, note, say, say_json
from .options import IndexModelOptions, Json

if TYPE_CHECKING:
    from ..search.index import Hit, Index

_RESULTS = "Results"
# Seconds of re-ranking from which on it is said how long it takes.
_LONG = 5.0


def search(
    index: Annotated[
        str,
        typer.Argument(metavar="INDEX", help="What `blip2-chat index` made: a folder, or s3://BUCKET/NAME."),
    ],
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help='What is to be seen, such as "two dogs on a beach".')
    ] = None,
    *,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="PICTURE",
            help="Find pictures like this one instead: a path or URL.",
            rich_help_panel=_RESULTS,
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Number of results.", rich_help_panel=_RESULTS),
    ] = 10,
    rerank: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Number of candidates that the model reads again together with the text.",
            rich_help_panel=_RESULTS,
        ),
    ] = 128,
    no_rerank: Annotated[
        bool,
        typer.Option(
            "--no-rerank",
            help="Order by the similarity of the embeddings alone, which takes milliseconds.",
            rich_help_panel=_RESULTS,
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Compare with every picture, without the approximate search of large indexes.",
            rich_help_panel=_RESULTS,
        ),
    ] = False,
    as_json: Json = False,
    model: IndexModelOptions,
) -> None:
    """Find pictures of an index by words, or pictures like another.

    Embeddings find candidates, and the model reads the first of them again together with the text. Prints one line
    per picture, best first: the probability that the text describes it (or the similarity, from -1 to 1) and its
    path.
    """
    from ..errors import GenerationError, Parameter

    if (text is None) == (like is None):
        raise GenerationError("give a text to search for, or ", Parameter("like"), " with a picture")
    # Before the model is loaded, which takes longer.
    opened = None
    if like is not None:
        from ..images import open_picture

        opened = open_picture(like, limits=model.picture_limits())
    found = _open(index, model)
    with found, ProgressBar("matching") as bar:
        telling = _Telling(bar)
        hits = found.search(
            text,
            like=opened,
            top=top,
            rerank=0 if no_rerank else rerank,
            exact=exact,
            on_rerank=telling,
        )
    for hit in hits:
        if as_json:
            say_json(as_dict(hit))
        else:
            say(f"{hit.score:6.3f}  {hit.path}")
    if not hits:
        note(f"{index} has no pictures")
    if changed := [hit.changed for hit in hits if hit.changed]:
        note(f"not read again: {changed[0]}{f' (and {len(changed) - 1:,} more)' if changed[1:] else ''}")


def _open(index: str, model: IndexModelOptions) -> Index:
    from ..search.index import Index

    with ProgressBar("loading the model of the index") as progress:
        return Index.open(
            index,
            model.model or None,
            precision=model.precision,
            engine=model.engine,
            device=model.device,
            revision=model.revision,
            processor=model.processor,
            threads=model.threads,
            force=model.force,
            limits=model.picture_limits(),
            on_progress=progress,
        )


def as_dict(hit: Hit) -> dict[str, object]:
    """A result as JSON has it."""
    return {
        "path": hit.path,
        "similarity": round(hit.similarity, 6),
        "probability": None if hit.probability is None else round(hit.probability, 6),
        "width": hit.width,
        "height": hit.height,
        "changed": hit.changed,
    }


class _Telling:
    """Says once how long re-ranking takes, if it takes long; a bar shows the rest."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._told = False

    def __call__(self, done: int, total: int, seconds: float) -> None:
        if not self._told and seconds > _LONG:
            self._told = True
            self._bar.note(
                f"matching the first {total} takes about {duration(seconds)} more; --rerank N takes fewer, "
                "--no-rerank none, and `index --keep-features` makes it faster"
            )
        self._bar("matching", done, total)
