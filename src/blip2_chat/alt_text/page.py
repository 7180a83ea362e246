"""A page's text and its encoding: what is not edited keeps its bytes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..errors import PageError
from ..images.naming import one_line

ENDINGS = (".html", ".htm", ".xhtml")
# What would have a meaning in the text of a Markdown picture.
_MEANS_SOMETHING = re.compile(r"[\\*_\[\]]")
# And what would have one even after a backslash, or in an attribute of HTML within Markdown: the end of a piece of
# code, and of a table's cell.
_ENDS_SOMETHING = str.maketrans({"`": "&#96;", "|": "&#124;"})
MOST_BYTES = 16_000_000
# Where HTML looks for the encoding that a page declares.
_DECLARED_WITHIN = 1024
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True)
class Insertion:
    """Attributes for the tag whose name ends at `at` (in characters): names and values."""

    at: int
    attributes: tuple[tuple[str, str], ...]

    def text(self, encoding: str) -> str:
        return "".join(f' {name}="{_value(value, encoding)}"' for name, value in self.attributes)


@dataclass(frozen=True)
class MarkdownText:
    """The text of a Markdown picture, which belongs at `at` (in characters)."""

    at: int
    value: str

    def text(self, encoding: str) -> str:
        return _written(_MEANS_SOMETHING.sub(r"\\\g<0>", escape(self.value, quote=False)), encoding)


@dataclass(frozen=True)
class Page:
    """text: decoded with `encoding`, such that encoding it gives the file's bytes again."""

    text: str
    encoding: str

    @classmethod
    def of(cls, data: bytes, is_html: bool = True) -> Page:
        """By the byte order mark, what an HTML page declares, UTF-8 or Windows' encoding, as browsers do. A page with
        bytes that its encoding does not have is read byte by byte, so that they stay."""
        declared = _DECLARED.search(data[:_DECLARED_WITHIN]) if is_html else None
        named = [encoding for mark, encoding in _MARKS if data.startswith(mark)]
        if declared:
            named.append(declared[1].decode())
        for encoding in (*named, "utf-8", "windows-1252"):
            try:
                text = data.decode(encoding)
                if text.encode(encoding) == data:
                    return cls(text, encoding)
            except (UnicodeError, LookupError, ValueError):
                continue
        return cls(data.decode("latin-1"), "latin-1")

    @classmethod
    def read(cls, path: Path, is_html: bool = True) -> Page:
        """Raises `PageError`."""
        try:
            if not path.is_file():
                raise PageError(f"{one_line(str(path))} was not found, or is not a file", path=path)
            if path.stat().st_size > MOST_BYTES:
                raise PageError(
                    f"{one_line(str(path))} is larger than {MOST_BYTES / 1e6:.0f} MB, which no page is",
                    path=path,
                )
            return cls.of(path.read_bytes(), is_html)
        except OSError as error:
            raise PageError(f"{one_line(str(path))} cannot be read ({error.strerror})", path=path) from error

    @property
    def data(self) -> bytes:
        return self.text.encode(self.encoding)

    def edited(self, insertions: Iterable[Insertion | MarkdownText]) -> Page:
        pieces, at = [], 0
        for one in sorted(insertions, key=lambda one: one.at):
            pieces += [self.text[at : one.at], one.text(self.encoding)]
            at = one.at
        return Page("".join([*pieces, self.text[at:]]), self.encoding)


def _value(value: str, encoding: str) -> str:
    """An attribute's value."""
    return _written(escape(value), encoding)


def _written(text: str, encoding: str) -> str:
    """Characters that the page's encoding does not have are references."""
    text = text.translate(_ENDS_SOMETHING)
    # Latin-1 may be a page of another encoding, read byte by byte.
    return text.encode("ascii" if encoding == "latin-1" else encoding, "xmlcharrefreplace").decode(encoding)
