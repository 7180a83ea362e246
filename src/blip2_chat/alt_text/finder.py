"""The pictures of a page that have no alternative text.

A picture with an empty `alt` is decorative, and stays so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

# Elements that have no end tag, and elements whose content is text.
_VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
)
_TEXT_ONLY = frozenset(("textarea", "title", "xmp", "iframe", "noembed", "noframes"))
_HIDDEN_ROLES = frozenset(("presentation", "none"))
_LAZY = ("data-src", "data-original", "data-lazy-src")
# Begins of comments after the last end of one; a script may have a few.
_MOST_UNENDED = 1000
_NAME = re.compile(r"<[a-zA-Z][^\s/>]*")
_FIRST_OF_SET = re.compile(r"\s*,*\s*(\S+)")
_OF_ONE_PIXEL = re.compile(r"\s*[01](?:px)?\s*")


@dataclass(frozen=True)
class Lacking:
    """A picture without a text. line: in the page, from 1. at: where the name of its tag ends, in characters, or, for
    one of Markdown (is_markdown), where its text belongs. sources: its addresses, the most likely first. language:
    that of its place in the page, "" if unknown; has_language: whether its own tag says so."""

    line: int
    at: int
    sources: tuple[str, ...]
    language: str
    has_language: bool = False
    is_markdown: bool = False


@dataclass(frozen=True)
class Found:
    """base: the address against which the page's own are resolved ("" if it declares none)."""

    pictures: tuple[Lacking, ...]
    base: str


def lacking(text: str) -> Found:
    finder = _Finder(text)
    finder.feed(_ended(text))
    finder.close()
    return Found(tuple(finder.found), finder.base)


def _ended(text: str) -> str:
    """Without a tag that never ends, and without comments that never end where they are too many to be meant: the
    parser would read the rest of the page again for each of them."""
    text = text[: text.rfind(">") + 1]
    begins: list[int] = []
    last = text.rfind("-->") + 1
    while (last := text.find("<!--", last) + 1) > 0 and len(begins) <= _MOST_UNENDED:
        begins.append(last - 1)
    return text[: begins[0]] if len(begins) > _MOST_UNENDED else text


class _Finder(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[Lacking] = []
        self.base = ""
        self._open: list[tuple[str, str, bool]] = []  # element, language, whether hidden from screen readers
        self._open_names: Counter[str] = Counter()  # how many of `_open` have this name
        self._sources: list[str] = []  # of the <picture> that is open
        self._text_only = ""
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._text_only:
            return
        # Of a repeated attribute, the first counts.
        attributes = {name: value or "" for name, value in reversed(attrs)}
        _, outer, is_hidden = self._open[-1] if self._open else ("", "", False)
        language = attributes.get("lang", attributes.get("xml:lang", outer))
        is_hidden = is_hidden or attributes.get("aria-hidden", "").strip().lower() == "true"
        if tag in _TEXT_ONLY:
            self._text_only = tag
        elif tag not in _VOID:
            self._open.append((tag, language, is_hidden))
            self._open_names[tag] += 1
        if tag == "picture":
            self._sources = []
        elif tag == "source" and self._open_names["picture"]:
            self._sources += _of_set(attributes.get("srcset", ""))
        elif tag == "base":
            self.base = self.base or attributes.get("href", "").strip()
        elif not is_hidden and _is_picture(tag, attributes) and _lacks_text(attributes):
            self._add(attributes, language)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        # In HTML the slash means nothing; in XHTML and SVG the element ends here.
        if tag not in _VOID and self._open and self._open[-1][0] == tag:
            self._close_last()
        if self._text_only == tag:
            self._text_only = ""

    def handle_endtag(self, tag: str) -> None:
        if self._text_only:
            if tag == self._text_only:
                self._text_only = ""
            return
        # An end tag also ends what is still open inside; one that fits nothing is ignored.
        if self._open_names[tag]:
            while self._close_last() != tag:
                pass
        if tag == "picture":
            self._sources = []

    def _close_last(self) -> str:
        name, _, _ = self._open.pop()
        self._open_names[name] -= 1
        return name

    def _add(self, attributes: dict[str, str], language: str) -> None:
        line, column = self.getpos()
        name = _NAME.match(self.get_starttag_text() or "")
        assert name is not None
        at = self._starts[line - 1] + column + name.end()
        sources = [attributes.get("src", ""), *(attributes.get(one, "") for one in _LAZY)]
        sources += [*_of_set(attributes.get("srcset", "")), *self._sources]
        given = [one.strip() for one in sources if one.strip()]
        # A small data: URL holds the place of a picture that is loaded later.
        if len(given) > 1:
            given.sort(key=lambda one: one[:5].lower() == "data:" and len(one) < 1000)
        self.found.append(
            Lacking(line, at, tuple(dict.fromkeys(given)), language.strip().lower(), "lang" in attributes)
        )


def _is_picture(tag: str, attributes: dict[str, str]) -> bool:
    return tag == "img" or (tag == "input" and attributes.get("type", "").strip().lower() == "image")


def _lacks_text(attributes: dict[str, str]) -> bool:
    """Whether it has neither a text nor a sign that it needs none: a role, a label, the size of a counting pixel."""
    if "alt" in attributes or attributes.get("role", "").strip().lower() in _HIDDEN_ROLES:
        return False
    if attributes.get("aria-label", "").strip() or attributes.get("aria-labelledby", "").strip():
        return False
    sizes = [attributes[name] for name in ("width", "height") if name in attributes]
    return len(sizes) < 2 or not all(_OF_ONE_PIXEL.fullmatch(one) for one in sizes)


def _of_set(srcset: str) -> Iterator[str]:
    """The first address of a `srcset`."""
    if found := _FIRST_OF_SET.match(srcset):
        yield found[1].rstrip(",")
