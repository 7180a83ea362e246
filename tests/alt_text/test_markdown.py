"""Alternative texts in Markdown: which pictures get one, and that renderers see no other difference."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import mistune
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from blip2_chat.alt_text.addresses import Addresses
from blip2_chat.alt_text.finder import lacking
from blip2_chat.alt_text.markdown import lacking_in_markdown
from blip2_chat.alt_text.page import MarkdownText, Page
from blip2_chat.alt_text.proposals import Proposals, propose
from blip2_chat.images import PictureLimits
from tests.support.forking import blip2_chat

SAMPLES = Path(__file__).parents[2] / "samples"
# What a caption might have in it that means something in Markdown.
CAPTION = 'a *dog* on a <b>"mat"</b> [one] of two_of_them & a | b\\ `c` ![x](y) &amp; 犬'
TEXT = CAPTION[0].upper() + CAPTION[1:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    for name in ("a.png", "b c.png", "img/a.png"):
        shutil.copy(SAMPLES / "farm.png", tmp_path / name)
    return tmp_path


def proposed(folder: Path, content: str | bytes, name: str = "page.md") -> Proposals:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return propose(path, Addresses(folder, PictureLimits()), lambda picture: CAPTION)


class _Seen(HTMLParser):
    """What is rendered, besides alternative texts, and these."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.parts: list[object] = []
        self.alts: list[str | None] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts.append((tag, [one for one in attrs if one[0] != "alt"]))
        if tag == "img":
            self.alts.append(dict(attrs).get("alt"))

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(tag)

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def handle_comment(self, data: str) -> None:
        self.parts.append(("comment", data))


def by_mistune(text: str) -> _Seen:
    render = mistune.create_markdown(escape=False, plugins=["table"])
    html = render(text)
    assert isinstance(html, str)
    return _Seen(html)


def by_markdown_it(text: str) -> _Seen:
    return _Seen(MarkdownIt("commonmark").enable("table").render(text))


PAGES = {
    "![](a.png)": 1,
    "some ![](a.png \"a *title*\") text ![](<b c.png> 't')": 2,
    "![has one](a.png) ![](a.png)": 1,
    "## A heading ![](a.png) ##\n\nAnother ![](a.png)\n===\n": 2,
    "[![](a.png)](https://example.com/) [![](img/a.png) words](a.png)": 2,
    "> quoted\n> ![](a.png)\nlazily ![](a.png)\n>> ![](a.png)\n": 3,
    "- ![](a.png)\n  - ![](a.png)\n\n1. one\n\n   ![](a.png)\n": 3,
    "![][one] and ![One][] and ![one]\n\n[one]: a.png 'title'\n": 1,
    "![][One  two] ![][three]\n\n[one two]: <b c.png>\n": 1,
    "| a | b |\n|---|---|\n| ![](a.png) | ![](a.png) |\n| x\\|y ![](a.png) | `a\\|b` ![](a.png) |\n": 4,
    "| ![](a.png) | ![](a.png) | text |\n|---|---|---|\n| ![](a.png) | no | ![](a.png) |\n": 4,
    "`![](a.png)` ``<img src=a.png>``": 0,
    "```\n![](a.png)\n<img src=a.png>\n```\n\n~~~md\n![](a.png)\n~~~\n\n    ![](a.png)\n": 0,
    "\\![](a.png) !\\[](a.png) ![]\\(a.png)": 0,
    "<!-- ![](a.png) <img src=a.png> -->\n\na <!-- ![](a.png) --> b": 0,
    '<p align="center">\n  <img src="a.png">\n  ![](a.png)\n</p>\n': 1,
    "text <img src=a.png width=9> <img src=a.png alt=''> <b>![](a.png)</b>": 2,
    "> <img\n> src=a.png>\n> and ![](a.png)\n": 2,
    "- <img src=a.png>\n- text <img\n  src=a.png>\n": 2,
    "<picture>\n<source srcset='img/a.png'>\n<img src=a.png>\n</picture>": 1,
    "<div aria-hidden=true>\n\n<img src=a.png>\n\n</div>\n\n<img src=a.png>\n": 1,
    "| a |\n|---|\n| <img src=a.png> |\n| <b>x</b> <img src=a.png title='x\\|y'> |\n": 2,
    "Grüße 犬 🐕 ![](a.png) 犬 ![](a.png)\n": 2,
    "![\n](a.png) ![](\na.png\n)": 1,
    "a\n\n\n   ![](a.png)   \n  b  \n![](a.png)": 2,
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("content", PAGES)
def test_renderers_see_the_texts_and_no_other_difference(content: str, newline: str, folder: Path) -> None:
    content = content.replace("\n", newline)
    found = proposed(folder, content)
    assert [one.error for one in found.proposals] == [None] * PAGES[content.replace("\r\n", "\n")]
    edited = found.edited
    for render in (by_mistune, by_markdown_it):
        before, after = render(content), render(edited.text)
        assert after.parts == before.parts
        assert sum(a != b for a, b in zip(before.alts, after.alts, strict=True)) == len(found.proposals)
        changed = [a for b, a in zip(before.alts, after.alts, strict=True) if a != b]
        assert changed == [TEXT] * len(changed)
    # Again there is nothing to do, and what was added is all that is new.
    assert lacking_in_markdown(edited.text).pictures == ()
    assert removed(found) == content


def removed(found: Proposals) -> str:
    """The edited page without what was put into it."""
    text = found.edited.text
    in_markdown = MarkdownText(0, TEXT).text(found.page.encoding)
    text = text.replace(f"![{in_markdown}]", "![]")
    return re.sub(r' alt="A \*dog\*[^"]*"', "", text)


SOURCES = {
    "![](img/a.png)": True,
    "![](/img/a.png)": True,
    "![](b%20c.png)": True,
    "![](<b c.png>)": True,
    "![](a.png?raw=true#top)": True,
    "![](missing.png)": False,
    "![]()": False,
    "![](../secret.png)": False,
    "![](https://example.com/a.png)": False,
    "![](//example.com/a.png)": False,
}


@pytest.mark.parametrize("content", SOURCES)
def test_addresses_are_those_of_html(content: str, folder: Path) -> None:
    inner = folder / "docs"
    shutil.copytree(folder, inner, ignore=shutil.ignore_patterns("docs"))
    shutil.copy(SAMPLES / "farm.png", folder / "secret.png")
    found = proposed(inner, content)
    (one,) = found.proposals
    assert (one.alt is not None) == SOURCES[content] and (one.error is None) == SOURCES[content]
    if not SOURCES[content]:
        assert found.edited.text == content


def test_front_matter_is_no_text(folder: Path) -> None:
    page = '---\ntitle: "![](a.png)"\nimage: <img src=a.png>\n---\n\n![](a.png)\n'
    (one,) = proposed(folder, page).proposals
    assert one.lacking.line == 6
    assert len(proposed(folder, page.replace("---", "+++").replace(":", " =")).proposals) == 1
    assert len(proposed(folder, "---\n\n![](a.png)\n\n---\n").proposals) == 1, "two lines across the page"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "---\na: b\n---\nGrüße ![](a.png)"),
        ("utf-8-sig", "Grüße ![](a.png)"),
        ("utf-16", "犬 ![](a.png)\n"),
        ("windows-1252", "“Grüße” ![](a.png) charset=utf-7"),
    ],
)
def test_every_other_byte_stays(encoding: str, text: str, folder: Path) -> None:
    before = text.encode(encoding)
    found = proposed(folder, before)
    assert found.write()
    after = (folder / "page.md").read_bytes().decode(encoding)
    assert removed(found).encode(found.page.encoding) == before
    assert after.encode(encoding) == found.edited.data
    assert by_markdown_it(after.split("---\n")[-1]).alts == [TEXT]


FRAGMENTS = [
    *("![](a.png)", "![](a.png 't')", "![][r]", "![ ](a.png)", "![x](a.png)"),
    *("<img src=a.png>", "<img\nsrc=a.png>", "<!--", "-->", "<b>", "</b>", "<div>\n", "</div>\n"),
    *("`", "``", "```\n", "    ", "\t", "\n", "\n\n", "\r\n", "  \n", "> ", "- ", "1. ", "# ", " #"),
    *("|", "|-|-|\n", "\n|---|\n", "---\n", "===\n", "\n[r]: a.png\n"),
    *("text", "*", "**", "_", "\\", "\\|", "[", "]", "(", ")", "](b)", "&amp;", "é", "犬", "\0"),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join))
def test_any_text_gets_its_texts_and_nothing_else(content: str) -> None:
    if content.startswith(("---", "+++")):
        content = f"a\n{content}"
    found = lacking_in_markdown(content)
    page = Page(content, "utf-8")
    edited = page.edited(MarkdownText(one.at, "word") for one in found.pictures if one.is_markdown).text
    before, after = by_markdown_it(content), by_markdown_it(edited)
    assert before.parts == after.parts
    assert sum(alt == "word" for alt in after.alts) == sum(one.is_markdown for one in found.pictures)
    # No picture of Markdown is left without a text; those of HTML have other rules.
    in_html = len(lacking(MarkdownIt("commonmark").enable("table").render(content)).pictures)
    assert after.alts.count("") == before.alts.count("") - after.alts.count("word")
    assert sum(not one.is_markdown for one in found.pictures) <= in_html + before.alts.count(None)
    assert edited.replace("![word]", "![]") == content.replace("![word]", "![]")


@pytest.mark.parametrize(
    "hostile",
    [
        "![" * 25_000,
        "![](" * 12_000,
        "![](b.png) " * 5_000,
        "[" * 25_000 + "]" * 25_000,
        "`" * 100 + "a" + "``" * 25_000,
        "> " * 25_000,
        "<!--" * 25_000 + ">",
        "<img " * 25_000,
        "a <img src=b.png\n" * 5_000,
        "|a" * 5_000 + "|\n" + "|-" * 5_000 + "|\n" + "|![](b.png)" * 5_000,
        "---\na: b\n" + "--\n" * 25_000,
        "- " * 5_000 + "![](b.png)",
        "&" * 50_000,
    ],
    ids=lambda text: repr(text[:12]),
)
@pytest.mark.timeout(120)
def test_a_hostile_page_takes_time_in_proportion(hostile: str) -> None:
    """Parsers of Markdown have taken time with the square of the lengths of such texts."""
    found = lacking_in_markdown("![](first.png)\n\n" + hostile).pictures
    assert found and found[0].sources == ("first.png",)


class TestCommand:
    def test_a_folder_of_both_kinds(self, folder: Path) -> None:
        (folder / "README.md").write_text("# A farm\n\n![](a.png)\n\n[![](img/a.png)](a.png)\n")
        (folder / "index.html").write_text("<img src=a.png>\n")
        code, out, err = blip2_chat("alt", folder, "--json")
        assert code == 0 and "3 texts for 2 pages, 0 failed" in err
        entries = [json.loads(line) for line in out.splitlines()]
        assert [(Path(one["page"]).name, one["line"]) for one in entries] == [
            ("README.md", 3),
            ("README.md", 5),
            ("index.html", 1),
        ]
        code, out, err = blip2_chat("alt", folder / "README.md")
        assert code == 0 and f"+![{entries[0]['alt']}](a.png)" in out
        assert "![](a.png)" in (folder / "README.md").read_text(), "only shown"
        code, _, err = blip2_chat("alt", folder, "--write")
        assert code == 0 and "2 written" in err
        written = (folder / "README.md").read_text()
        assert by_mistune(written).alts == [one["alt"] for one in entries[:2]]
