"""Alternative texts for pages: which pictures lack one, what is proposed, and that no other byte changes."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from blip2_chat import PageError
from blip2_chat.alt_text.addresses import Addresses
from blip2_chat.alt_text.finder import lacking
from blip2_chat.alt_text.page import Page
from blip2_chat.alt_text.proposals import Proposals, propose
from blip2_chat.alt_text.wording import alt_text
from blip2_chat.images import PictureLimits
from tests.support.forking import blip2_chat

SAMPLES = Path(__file__).parents[2] / "samples"
with Image.open(SAMPLES / "farm.png") as _sample:
    WIDTH = _sample.width
DATA_URL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def proposed(page: Path, root: Path | None = None, **more: object) -> Proposals:
    addresses = Addresses(root or page.parent, PictureLimits(), **more)  # type: ignore[arg-type]
    return propose(page, addresses, lambda picture: f'a picture of "{picture.image.width}" & more')


@pytest.fixture
def site(tmp_path: Path) -> Path:
    shutil.copy(SAMPLES / "farm.png", tmp_path / "farm.png")
    (tmp_path / "img").mkdir()
    shutil.copy(SAMPLES / "farm.png", tmp_path / "img" / "two words.png")
    return tmp_path


def page_of(site: Path, content: str | bytes, name: str = "index.html") -> Path:
    path = site / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


LACKING = {
    "<img src=farm.png>": 1,
    "<IMG SRC='farm.png'\n width=100 />": 1,
    "<img src=farm.png alt>": 0,
    '<img src=farm.png alt="">': 0,
    '<img src=farm.png ALT="a farm">': 0,
    '<img src=farm.png data-alt="x" title="alt=">': 1,
    '<img src=farm.png role="presentation">': 0,
    '<img src=farm.png aria-label="a farm">': 0,
    '<div aria-hidden="true"><p><img src=farm.png></p></div><img src=farm.png>': 1,
    '<img src=farm.png width="1" height="1">': 0,
    "<!-- <img src=farm.png> -->": 0,
    "<script>'<img src=farm.png>'</script><style><img></style>": 0,
    "<textarea><img src=farm.png></textarea><title><img src=farm.png></title>": 0,
    "<noscript><img src=farm.png></noscript>": 1,
    '<input type="image" src=farm.png><input type=text src=farm.png>': 1,
    "<p>a < b <img src=farm.png> </q> <b><img src=farm.png></p>": 2,
    '<a title="<img src=x>" href=x><img src=farm.png></a>': 1,
}


@pytest.mark.parametrize("content", LACKING)
def test_which_pictures_lack_a_text(content: str, site: Path) -> None:
    assert len(lacking(content).pictures) == LACKING[content]
    found = proposed(page_of(site, content))
    assert [one.error for one in found.proposals] == [None] * LACKING[content]
    # With their texts written, none lack one, and everything else is as it was.
    assert lacking(found.edited.text).pictures == ()
    assert found.edited.text.replace(f' alt="&quot;{WIDTH}&quot; &amp; more"', "") == content


SOURCES = {
    '<img src="img/two%20words.png?v=3#top">': True,
    '<img src="/farm.png">': True,
    '<base href="img/"><img src="two words.png">': True,
    '<img srcset="farm.png 2x, other.png 1x">': True,
    '<picture><source srcset="farm.png 100w, b.png 200w"><img src="missing.png"></picture>': True,
    f'<img src="{DATA_URL}" data-src="farm.png">': True,
    '<img src="missing.png">': False,
    "<img>": False,
    '<img src="../secret.png">': False,
    '<img src="/../secret.png">': False,
    '<img src="link.png">': False,
    '<img src="file:///etc/passwd">': False,
    '<img src="javascript:x">': False,
    '<img src="a%00b">': False,
    '<img src="http://127.0.0.1:1/a.png">': False,
    '<img src="//127.0.0.1:1/a.png">': False,
}


@pytest.mark.parametrize("content", SOURCES)
def test_pictures_are_found_where_browsers_find_them_and_nowhere_else(content: str, site: Path) -> None:
    inner = site / "site"
    shutil.copytree(site, inner, ignore=shutil.ignore_patterns("site"))
    shutil.copy(SAMPLES / "farm.png", site / "secret.png")
    (inner / "link.png").symlink_to(site / "secret.png")
    (one,) = proposed(page_of(inner, content)).proposals
    assert (one.alt is not None) == SOURCES[content]
    if not SOURCES[content]:
        assert one.error is not None and "\n" not in str(one.error)
        assert proposed(page_of(inner, content)).edited.text == content
    elif "data-src" in content:
        assert one.alt == f'"{WIDTH}" & more'  # the picture, not what holds its place


def test_a_page_in_a_subfolder_needs_the_folder_of_the_site(site: Path) -> None:
    page = page_of(site, '<img src="../farm.png">', "pages/a.html")
    assert "give the folder of the whole site as root" in str(proposed(page).proposals[0].error)
    assert proposed(page, root=site).proposals[0].alt


ENCODED = {
    "utf-8": '<html lang="de"><p>Grüße 🐕</p>\r\n<img src=farm.png>\r\n',
    "utf-8-sig": "<p>Grüße</p><img src=farm.png>",
    "utf-16": "<p>Grüße 犬</p><img src=farm.png>\n",
    "windows-1252": "<meta charset=windows-1252><p>Grüße „so“</p><img src=farm.png>",
    "shift_jis": '<meta charset="shift_jis"><p>表示ソ</p><img src=farm.png>',
    "gb18030": '<?xml version="1.0" encoding="gb18030"?><p>犬と林檎</p><img src="farm.png"/>',
    "iso-2022-jp": '<meta http-equiv="Content-Type" content="text/html; charset=iso-2022-jp">犬<img src=farm.png>犬',
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_pages_in_any_encoding_keep_every_other_byte(encoding: str, site: Path) -> None:
    before = ENCODED[encoding].encode(encoding)
    path = page_of(site, before)
    found = propose(path, Addresses(site, PictureLimits()), lambda picture: "a dog, “schön”")
    assert found.write() and not proposed(path).proposals
    after = path.read_bytes()
    text = after.decode(encoding)
    start = text.index(' alt="')
    end = text.index('"', start + 6) + 1
    if text[end:].startswith(" lang="):
        end += len(' lang="en"')
    assert (text[:start] + text[end:]).encode(encoding) == before
    assert html.unescape(text[start + 6 :].partition('"')[0]) == "A dog, “schön”"


def test_bytes_that_the_encoding_does_not_have_stay(site: Path) -> None:
    before = b'<meta charset="utf-8"><p>\xff\xfe broken \xc3</p><img src=farm.png>'
    path = page_of(site, before)
    proposed(path).write()
    assert path.read_bytes().replace(f' alt="&quot;{WIDTH}&quot; &amp; more"'.encode(), b"") == before


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<html lang=en-GB><img src=farm.png>", ""),
        ("<img src=farm.png>", ""),
        ("<html lang=de><img src=farm.png>", ' lang="en"'),
        ("<html lang=de><section lang=en><img src=farm.png></section>", ""),
        ("<html lang=en><p lang=fr>a</p><img src=farm.png>", ""),
        ("<html lang=en><img lang=fr src=farm.png>", ""),
    ],
)
def test_a_text_in_another_language_than_its_page_says_so(content: str, expected: str, site: Path) -> None:
    found = proposed(page_of(site, content)).edited.text
    assert found.partition('amp; more"')[2].startswith(expected)
    added = found.count(' lang="en"') - content.count(' lang="en"')
    assert added == bool(expected)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a picture of a dog.", "A dog"),
        ("an image of two cats", "Two cats"),
        ("this is a close up of a flower", "A flower"),
        ("there is a dog on the grass", "A dog on the grass"),
        ("a black and white photo of a street", "A street"),
        ("a photo frame on a wall", "A photo frame on a wall"),
        ("a  view\nof the sea", "The sea"),
        ("", ""),
        ("word " * 60, "Word" + " word" * 23 + "…"),
    ],
)
def test_captions_become_short_texts(caption: str, expected: str) -> None:
    assert alt_text(caption) == expected
    assert len(expected) <= 125


def test_a_page_that_changed_meanwhile_is_not_written(site: Path) -> None:
    path = page_of(site, "<img src=farm.png>")
    found = proposed(path)
    path.write_text("<p>edited</p>")
    with pytest.raises(PageError, match="has changed meanwhile"):
        found.write()
    assert path.read_text() == "<p>edited</p>"


def test_a_page_that_is_no_text_keeps_its_bytes() -> None:
    assert Page.of(b"\0" * 1000).data == b"\0" * 1000


class _Server:
    def __init__(self, folder: Path) -> None:
        handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def server(site: Path) -> Iterator[_Server]:
    running = _Server(site)
    yield running
    running.server.shutdown()
    running.server.server_close()


def test_remote_pictures_only_when_asked_and_only_from_the_public_internet(
    site: Path, server: _Server
) -> None:
    page = page_of(site, f'<img src="{server.url}/farm.png">')
    assert "is on the network; remote=True fetches" in str(proposed(page).proposals[0].error)
    assert "public internet" in str(proposed(page, is_remote=True).proposals[0].error)
    assert proposed(page, is_remote=True, is_allowed=lambda address: address == "127.0.0.1").proposals[0].alt


@pytest.mark.parametrize(
    "hostile",
    [
        "<img " * 300_000,
        '<img a="' * 200_000 + ">",
        "<!--" * 300_000 + ">",
        "<b>" * 100_000 + "</i>" * 100_000,
        "<b>" * 50_000 + "<source>" * 50_000,
    ],
    ids=["tags", "quotes", "comments", "end tags", "sources"],
)
@pytest.mark.timeout(120)
def test_a_hostile_page_takes_time_in_proportion(hostile: str) -> None:
    """Each of these took time with the square of its length: minutes and more."""
    found = lacking("<img src=first.png>" + hostile).pictures
    assert found and found[0].sources == ("first.png",)


def test_what_follows_the_begin_of_a_comment_in_a_script_is_found() -> None:
    (found,) = lacking('<script>let a = "<!--";</script><img src=a.png>').pictures
    assert found.sources == ("a.png",)


class TestCommand:
    def test_a_diff_that_patch_applies_json_and_write_agree(self, site: Path) -> None:
        page = page_of(site, "<html lang=fr>\r\n<p>Été</p>\r\n<img src=farm.png>\r\n".encode("latin-1"))
        code, _, err = blip2_chat("alt", site, "--json")
        assert code == 0 and "1 text for 1 page, 0 failed" in err
        code, out, _ = blip2_chat("alt", site, "--json")
        (entry,) = map(json.loads, out.splitlines())
        assert (entry["line"], entry["src"], entry["lang"], entry["error"]) == (3, "farm.png", "en", None)
        before = page.read_bytes()
        command = f"{sys.executable} -m blip2_chat alt {page} > {site}/a.patch"
        subprocess.run(command, shell=True, check=True, capture_output=True)
        assert page.read_bytes() == before
        if shutil.which("patch"):
            shutil.copy(page, site / "patched")
            subprocess.run(["patch", "--binary", "-s", site / "patched", site / "a.patch"], check=True)
        code, out, err = blip2_chat("alt", page, "--write")
        assert code == 0 and out == "" and "1 written" in err
        assert f'alt="{entry["alt"]}" lang="en"'.encode() in page.read_bytes()
        if shutil.which("patch"):
            assert (site / "patched").read_bytes() == page.read_bytes()

    def test_failures_are_named_with_page_and_line(self, site: Path) -> None:
        page = page_of(site, "\n<img src=missing.png>\n<img src=https://example.com/a.png>")
        code, _, err = blip2_chat("alt", page)
        assert code == 3 and f"{page}:2: " in err and "--remote fetches such pictures" in err
        code, _, err = blip2_chat("alt", site / "nothing.html")
        assert code == 1 and "was not found" in err and "Traceback" not in err

    def test_the_commands_of_the_documentation(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        document = (Path(__file__).parents[2] / "docs" / "alt.md").read_text(encoding="utf-8")
        (block,) = re.findall(r"^```bash\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
        (site / "site").mkdir()
        shutil.copy(site / "farm.png", site / "site")
        page = page_of(site / "site", "<img src=farm.png>")
        read_me = page_of(site / "site", "![](farm.png)", "README.md")
        monkeypatch.chdir(site)
        for line in block.splitlines():
            code, _, err = blip2_chat(*line.split()[1:])
            assert code == 0, err
        assert lacking(page.read_text()).pictures == ()
        assert not read_me.read_text().startswith("![]")
