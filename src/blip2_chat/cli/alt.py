"""`blip2-chat alt PAGE...`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Blip2ChatError
from .display.terminal import complain, note, say_json, say_lines
from .options import Json, ModelOptions
from .wording import worded

if TYPE_CHECKING:
    from ..alt_text.proposals import Proposals
    from ..images import Picture
    from ..model import Model

_FAILED = 3


class _Describer:
    """The model, loaded when the first picture is described; each picture once."""

    def __init__(self, options: ModelOptions) -> None:
        self._options = options
        self._model: Model | None = None
        self._captions: dict[str, str] = {}

    def __call__(self, picture: Picture) -> str:
        if picture.digest not in self._captions:
            if self._model is None:
                self._options.tell_limits()
                self._model = self._options.load()
            self._captions[picture.digest] = str(self._model.caption(picture))
        return self._captions[picture.digest]


def alt(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PAGE",
            help="A page of HTML or Markdown, a folder of pages, or a list of pages (.txt), one per line.",
        ),
    ],
    *,
    write: Annotated[
        bool, typer.Option("--write", help="Write the texts into the pages instead of printing a diff.")
    ] = False,
    as_json: Json = False,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the site: pictures outside of it are not read, and addresses that begin with / are "
            "relative to it (default: the folder given, or that of the page).",
        ),
    ] = None,
    remote: Annotated[
        bool,
        typer.Option(
            "--remote", help="Fetch pictures that are on the network, from the public internet only."
        ),
    ] = False,
    model: ModelOptions,
) -> None:
    """Propose alt texts for the pictures of web and Markdown pages.

    Those that have none get one. Prints a diff, and changes nothing without --write. In HTML, pictures with an empty
    alt are decorative and stay so. Exit status: 0 success, 3 some pictures or pages could not be read, 1 nothing
    could be done.
    """
    from ..alt_text.addresses import Addresses
    from ..alt_text.proposals import pages, propose

    describe = _Describer(model)
    texts = failed = written = count = 0
    for source in map(Path, sources):
        for path in pages(source):
            site = root or (source if source.is_dir() else path.parent)
            try:
                found = propose(path, Addresses(site, model.picture_limits(), remote), describe)
                if as_json:
                    _say_each(found)
                elif not write:
                    _say_diff(found)
                written += found.write() if write else 0
            except Blip2ChatError as error:
                complain(worded(error))
                failed += 1
                continue
            count += 1
            texts += sum(one.alt is not None for one in found.proposals)
            failed += _tell_failures(found)
    noun = "text" if texts == 1 else "texts"
    where = f"{count:,} {'page' if count == 1 else 'pages'}"
    end = f"{written:,} written" if write else "--write puts them into the pages"
    note(f"{texts:,} {noun} for {where}, {failed:,} failed; {end}")
    if failed:
        raise typer.Exit(_FAILED if count else 1)


def _say_diff(found: Proposals) -> None:
    """On a terminal, legibly; into a file or a pipe, in the page's own bytes, so that `patch` can apply it."""
    if sys.stdout.isatty():
        say_lines(found.diff())
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(found.diff().encode(found.page.encoding))
        sys.stdout.buffer.flush()


def _say_each(found: Proposals) -> None:
    for one in found.proposals:
        entry = {"page": str(found.path), "line": one.lacking.line, "src": one.source, "alt": one.alt}
        say_json({**entry, "lang": one.language, "error": one.error and worded(one.error)})


def _tell_failures(found: Proposals) -> int:
    failures = [(one.lacking.line, one.error) for one in found.proposals if one.error is not None]
    for line, error in failures:
        note(f"{found.path}:{line}: {worded(error)}")
    return len(failures)
