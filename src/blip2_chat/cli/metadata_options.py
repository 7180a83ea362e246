"""Options of `run` for the metadata of pictures, and what is said about it at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from ..checkpoint.embedded import EMBEDDED_RETRIEVER, RETRIEVER_VARIABLE
from .display.terminal import note
from .match import lines_of
from .wording import worded

if TYPE_CHECKING:
    from ..batch.outputs.metadata import Metadata
    from ..batch.outputs.ranked_tags import RankedTags
    from ..batch.result import Result
    from ..batch.run import Summary


@dataclass(frozen=True)
class MetadataOptions:
    """Captions in the pictures' own metadata."""

    heading: ClassVar[str] = "Picture metadata"

    write: Annotated[
        str | None,
        typer.Option(
            metavar="xmp",
            help="Write captions into an .xmp sidecar file next to each picture (description, alt text).",
        ),
    ] = None
    xmp_style: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Name of .xmp files: digikam for photo.jpg.xmp, adobe for photo.xmp."
        ),
    ] = "digikam"
    embed: Annotated[
        bool,
        typer.Option(
            "--embed",
            help="Write captions into the pictures themselves: JPEG, PNG, WebP and TIFF; with --write xmp, sidecar "
            "files for those of other formats.",
        ),
    ] = False
    tags: Annotated[bool, typer.Option("--tags", help="Add the things that a caption names as keywords.")] = (
        False
    )
    tag_list: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Add those words of this file, one in each line, that fit the picture best, as keywords.",
        ),
    ] = None
    tag_model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            envvar=RETRIEVER_VARIABLE,
            help="Retrieval model for --tag-list: a folder, or a name such as Salesforce/blip2-itm-vit-g.",
        ),
    ] = EMBEDDED_RETRIEVER
    keep_times: Annotated[
        bool, typer.Option("--keep-times", help="Keep the modification times of pictures with --embed.")
    ] = False

    @property
    def is_given(self) -> bool:
        return self.write is not None or self.embed

    def as_metadata(self, overwrite: bool) -> Metadata | None:
        if not self.is_given:
            if self.tags or self.tag_list or self.keep_times or self.xmp_style != "digikam":
                raise typer.BadParameter(
                    "--tags, --tag-list, --keep-times and --xmp-style belong to --write xmp or --embed"
                )
            return None
        from ..batch.outputs.metadata import Metadata
        from ..metadata.files import STYLES, Places

        if self.write not in (None, "xmp"):
            raise typer.BadParameter(f"--write {self.write}: the only format is xmp")
        if self.xmp_style not in STYLES:
            raise typer.BadParameter(f"--xmp-style {self.xmp_style} is none of {', '.join(STYLES)}")
        places = Places(self.embed, self.write is not None, self.xmp_style, overwrite, self.keep_times)
        if self.tag_list is not None:
            if self.tags:
                raise typer.BadParameter("--tags and --tag-list are two ways to keywords: give one of them")
            return Metadata(places, self._ranked(self.tag_list))
        return Metadata(places, _words if self.tags else None)

    def _ranked(self, file: Path) -> RankedTags:
        from ..batch.outputs.ranked_tags import RankedTags
        from ..retriever_loading import load_retriever
        from ..tagging import Tagger

        words = [word for line in lines_of(file, "--tag-list") if (word := line.strip())]
        if not words:
            raise typer.BadParameter(f"--tag-list {file} has no words")

        def load() -> Tagger:
            return Tagger(load_retriever(self.tag_model), words)

        return RankedTags(load, repr((self.tag_model, words)))


def _words(result: Result) -> tuple[str, ...]:
    from ..metadata.keywords import keywords

    return keywords(result.captions or tuple(result.answers.values()))


def tell_metadata(summary: Summary) -> None:
    """How many pictures have their caption, and which could not get it."""
    counts = summary.metadata
    if not counts:
        return
    parts = [f"{counts.get('written', 0):,} written"]
    if there := counts.get("unchanged"):
        parts.append(f"{there:,} there already")
    if kept := counts.get("kept"):
        parts.append(f"{kept:,} kept, because they have a text from another program (see --overwrite)")
    if counts.get("failed"):
        parts.append(f"{counts['failed']:,} failed")
    if nowhere := counts.get("nowhere"):
        parts.append(f"{nowhere:,} no files of this machine")
    note(f"metadata: {', '.join(parts)}")
    for _, error in summary.unwritten:
        note(f"  {worded(error)}")
    if more := counts.get("failed", 0) - len(summary.unwritten):
        note(f"  and {more:,} more")
