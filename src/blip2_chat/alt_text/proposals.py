"""Alternative texts for a page of HTML or Markdown: found, proposed, and written."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import PageError, PictureError
from ..images import Picture, open_picture
from ..images.naming import one_line
from ..system.whole_files import replacing
from .addresses import Addresses
from .finder import Lacking, lacking
from .markdown import ENDINGS as MARKDOWN
from .markdown import lacking_in_markdown
from .page import ENDINGS, Insertion, MarkdownText, Page
from .wording import alt_text

# The language in which the models write.
LANGUAGE = "en"
Describe = Callable[[Picture], str]


@dataclass(frozen=True)
class Proposal:
    """A text for a picture, or why there is none. language: where it is not that of the page: `lang` says so."""

    lacking: Lacking
    source: str
    alt: str | None
    language: str | None = None
    error: PictureError | None = None


@dataclass(frozen=True)
class Proposals:
    """What is proposed for a page."""

    path: Path
    page: Page
    proposals: tuple[Proposal, ...]

    @property
    def edited(self) -> Page:
        return self.page.edited(_insertion(one) for one in self.proposals if one.alt)

    def diff(self) -> str:
        """A unified diff, as `patch -p0` and `git apply -p0` read it."""
        name = self.path.as_posix()
        lines = difflib.unified_diff(_lines(self.page.text), _lines(self.edited.text), name, name)
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
        )

    def write(self) -> bool:
        """Puts the texts into the page -> whether there are any. Raises `PageError`, also if the page has changed
        since it was read."""
        edited = self.edited
        if edited.text == self.page.text:
            return False
        real = Path(os.path.realpath(self.path))

        def last_check() -> None:
            if real.read_bytes() != self.page.data:
                raise PageError(
                    f"{one_line(str(self.path))} has changed meanwhile; give the command again",
                    path=self.path,
                )

        try:
            mode = real.stat().st_mode
            with replacing(real, survives_power_loss=True, last_check=last_check) as file:
                file.write(edited.data)
                os.chmod(file.name, mode)
        except OSError as error:
            raise PageError(
                f"{one_line(str(self.path))} cannot be written ({error.strerror})", path=self.path
            ) from error
        return True


def propose(path: Path, addresses: Addresses, describe: Describe) -> Proposals:
    """Raises `PageError` for a page that cannot be read; a picture that cannot be opened has an error."""
    is_html = path.suffix.lower() not in MARKDOWN
    page = Page.read(path, is_html)
    found = lacking(page.text) if is_html else lacking_in_markdown(page.text)
    return Proposals(
        path, page, tuple(_proposal(one, path, found.base, addresses, describe) for one in found.pictures)
    )


def pages(source: Path) -> Iterator[Path]:
    """The pages of a folder and its subfolders by name, without hidden ones; or those that a list (.txt) names, or
    the page itself. Raises `PageError`."""
    if source.is_dir():
        for folder, folders, names in os.walk(source):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if name.lower().endswith((*ENDINGS, *MARKDOWN)) and not name.startswith("."):
                    yield Path(folder, name)
    elif source.suffix.lower() == ".txt":
        for line in Page.read(source).text.splitlines():
            if line.strip():
                yield source.parent / line.strip()
    else:
        yield source


def _proposal(one: Lacking, path: Path, base: str, addresses: Addresses, describe: Describe) -> Proposal:
    error = PictureError("it has no address")
    for source in one.sources:
        try:
            address = addresses.resolved(source, path, base)
            picture = open_picture(address, limits=addresses.picture_limits())
        except PictureError as failure:
            error = failure
            continue
        alt = alt_text(describe(picture))
        # Only where the page has said that its language is another one.
        is_other = one.language and one.language.partition("-")[0] != LANGUAGE
        return Proposal(one, _shown(source), alt or None, LANGUAGE if is_other else None)
    return Proposal(one, _shown(one.sources[0] if one.sources else ""), None, error=error)


def _lines(text: str) -> list[str]:
    """Only a line feed ends a line, as for other programs that read diffs."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _insertion(one: Proposal) -> Insertion | MarkdownText:
    if one.lacking.is_markdown:
        return MarkdownText(one.lacking.at, one.alt or "")
    attributes: Iterable[tuple[str, str]] = [("alt", one.alt or "")]
    if one.language and not one.lacking.has_language:
        attributes = [*attributes, ("lang", one.language)]
    return Insertion(one.lacking.at, tuple(attributes))


def _shown(source: str) -> str:
    return f"{source[:40]}…" if source[:5].lower() == "data:" else source
