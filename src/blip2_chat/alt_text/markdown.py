"""The pictures of a Markdown page that have no alternative text: `![](a.png)`, `![][name]`, and `<img>` in its HTML.

CommonMark with GitHub's tables, read by markdown-it. Its tokens know their lines only, so a picture's place within
them is what the parser's own rules saw, found again in the line. What is code is no picture.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline, html_inline, image
from markdown_it.token import Token

from .finder import Found, Lacking, lacking

ENDINGS = (".md", ".markdown")
_NEWLINE = re.compile(r"\r\n?|\n")
# What some site generators keep before the text: YAML or TOML between two lines.
_FRONT_MATTER = re.compile(r"\ufeff?(---|\+\+\+)[ \t]*\r?\n(?=[^\n]*[:=#])(?:[^\n]*\n)*?\1[ \t]*(?:\r?\n|\Z)")
_NO_NEWLINE = re.compile(r"[^\r\n]")
_SPAN = "span"
_Rule = Callable[[StateInline, bool], bool]


def lacking_in_markdown(text: str) -> Found:
    # As the parser does it; all is where it was.
    source = _Source(_without_front_matter(text).replace("\0", "\ufffd"))
    for token in _parser().parse(source.text):
        if token.map is not None and token.type == "html_block":
            source.add_block(token.map[0], token.content)
        elif token.map is not None and token.type == "inline":
            source.add_inline(token.map[0], token)
    found = lacking(source.html())
    pictures = sorted((*found.pictures, *source.pictures), key=lambda one: one.at)
    return Found(tuple(pictures), found.base)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable("table")
    parser.inline.ruler.at("image", _noting_where(image))
    parser.inline.ruler.at("html_inline", _noting_where(html_inline))
    return parser


def _noting_where(rule: _Rule) -> _Rule:
    """A rule whose tokens say from where to where in the text they are."""

    def noting(state: StateInline, silent: bool) -> bool:
        start = state.pos
        is_here = rule(state, silent)
        if is_here and not silent:
            state.tokens[-1].meta[_SPAN] = (start, state.pos)
        return is_here

    return noting


def _without_front_matter(text: str) -> str:
    """As long as it was, with spaces in place of it and of a byte order mark."""
    found = _FRONT_MATTER.match(text)
    end = found.end() if found else int(text.startswith("\ufeff"))
    return _blank(text[:end]) + text[end:]


def _blank(text: str) -> str:
    return _NO_NEWLINE.sub(" ", text)


@dataclass
class _Source:
    """The text, and what is found in it. pictures: those of Markdown; spans: its HTML, in characters."""

    text: str
    pictures: list[Lacking] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._starts = [0, *(match.end() for match in _NEWLINE.finditer(self.text)), len(self.text)]
        self._read: dict[int, int] = {}  # by line: how far the tokens before have come

    def html(self) -> str:
        """The text with spaces for all that is no HTML."""
        pieces, at = [], 0
        for start, end in sorted(self.spans):
            pieces += [_blank(self.text[at:start]), self.text[start:end]]
            at = end
        return "".join([*pieces, _blank(self.text[at:])])

    def add_block(self, first: int, html: str) -> None:
        """HTML from the line `first` on (from 0)."""
        for number, line in enumerate(html.split("\n"), first):
            places = self._places(number, line)
            if places:
                self.spans.append((places[0], places[-1] + 1))

    def add_inline(self, first: int, token: Token) -> None:
        """A paragraph, a heading or a cell of a table. Every one is looked for, because one like it may follow in the
        same line."""
        places: list[int] = []
        for number, line in enumerate(token.content.split("\n"), first):
            found = self._places(number, line)
            places += [*[-1] * (len(line) - len(found)), *found, -1]
        for one in token.children or ():
            start, end = one.meta.get(_SPAN, (0, 0))
            if one.type == "html_inline":
                self.spans += _runs(places[start:end])
            elif one.type == "image" and not one.content:
                self._add(places[start], str(one.attrs.get("src", "")))

    def _add(self, at: int, address: str) -> None:
        if at < 0 or not self.text.startswith("![]", at):
            return
        line = bisect_right(self._starts, at)
        self.pictures.append(
            Lacking(line, at + len("!["), (address,) if address else (), "", is_markdown=True)
        )

    def _places(self, number: int, content: str) -> Sequence[int]:
        """Where each character of a line's content is, without the space before it (of which the parser may have made
        more or less); nothing where it is not found."""
        content = content.lstrip()
        if not content or number + 1 >= len(self._starts):
            return ()
        start, end = self._read.get(number, self._starts[number]), self._starts[number + 1]
        at = self.text.find(content, start, end)
        if at >= 0:
            self._read[number] = at + len(content)
            return range(at, at + len(content))
        # In a table, `\|` is a bar of a cell's content.
        at = self.text.find(content.replace("|", "\\|"), start, end)
        if at < 0:
            return ()
        places = []
        for character in content:
            at += character == "|"
            places.append(at)
            at += 1
        self._read[number] = at
        return places


def _runs(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """From where to where neighbouring characters are, without those that are nowhere."""
    known = [place for place in places if place >= 0]
    start = 0
    for index in range(1, len(known) + 1):
        if index == len(known) or known[index] != known[index - 1] + 1:
            yield known[start], known[index - 1] + 1
            start = index
