"""`blip2-chat match PICTURE TEXT...`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .display.output import open_source
from .display.terminal import say, say_json, waiting
from .options import Json, RetrieverOptions

if TYPE_CHECKING:
    from ..retriever import Match


def match(
    picture: Annotated[
        str, typer.Argument(metavar="PICTURE", help="A path or URL, or - for standard input.")
    ],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="A text that may describe the picture.")
    ] = None,
    *,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also match the lines of this file, such as names of things."),
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Print only the N best (default: all).")
    ] = None,
    model: RetrieverOptions,
    as_json: Json = False,
) -> None:
    """Tell how well texts describe a picture, the best first.

    The columns are the probability that picture and text match (ITM), and the similarity of their embeddings, from -1
    to 1 (ITC). This needs a retrieval model, such as Salesforce/blip2-itm-vit-g; chat models cannot do it.
    """
    given = [*(texts or []), *(lines_of(labels, "--labels") if labels else ())]
    given = list(dict.fromkeys(text for text in map(str.strip, given) if text))
    if not given:
        raise typer.BadParameter("give at least one TEXT to match, or --labels FILE")
    # Before the model, whose loading may take minutes.
    opened = open_source(picture, model.picture_limits())
    retriever = model.load()
    with waiting("matching"):
        ranked = retriever.rank(opened, given)[:top]
    model.tell_limits()
    if as_json:
        for one in ranked:
            numbers = {"probability": round(one.probability, 6), "similarity": round(one.similarity, 6)}
            say_json({"picture": picture, "text": one.text, **numbers})
    else:
        _print(ranked)


def lines_of(file: Path, option: str) -> list[str]:
    """The lines of the file that was given with an option."""
    from ..system.text_files import encoding

    try:
        content = file.read_bytes()
        return content.decode(encoding(content[:4])).splitlines()
    except OSError as error:
        raise typer.BadParameter(f"{option} {file} cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise typer.BadParameter(f"{option} {file} is not text; save it as UTF-8") from None


def _print(ranked: list[Match]) -> None:
    if sys.stdout.isatty():
        say("match  similarity  text")
    for one in ranked:
        say(f"{one.probability:5.1%}  {one.similarity:10.4f}  {one.text}")
