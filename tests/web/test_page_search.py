"""The page's search: words, a wall of pictures, and a chat about one of them."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")
require("test-search")

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from blip2_chat.search.index import Index
from tests.support.searched import index_of_pictures
from tests.support.web_browser import Visit, answers, idle
from tests.support.web_server import MakeModel, Running, running


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with index_of_pictures(tmp_path_factory.mktemp("searched")) as index:
        yield index
        index.retriever.close()


@pytest.fixture(scope="module")
def searched(make_model: MakeModel, index: Index) -> Iterator[Running]:
    with running(make_model(), index=index) as server:
        yield server


def test_words_find_a_wall_of_pictures_and_a_click_chats(
    browser: Browser, searched: Running, index: Index
) -> None:
    expected = [hit.path.rpartition("/")[2] for hit in index.search("a woman and her dog", top=60)]
    visit = Visit(browser, searched.url)
    page = visit.page
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("heading", name="Search 12 pictures")).to_be_visible()
    page.get_by_role("searchbox").fill("a woman and her dog")
    page.get_by_role("searchbox").press("Enter")
    tiles = page.locator("#wall .tile")
    expect(tiles).to_have_count(12)
    expect(page.locator("#wall[data-filled='12']")).to_be_attached()
    assert [tile.get_attribute("title") for tile in tiles.all()] == expected
    assert page.evaluate(
        "[...document.querySelectorAll('#wall img')].every((image) => image.naturalWidth > 0)"
    )
    # More like the second: it is the first of its own kind.
    page.get_by_role("button", name="More like this").nth(1).click()
    expect(tiles.first).to_have_attribute("title", expected[1])
    tiles.first.click()
    expect(page.locator("#find")).to_be_hidden()
    expect(answers(page)).to_have_count(1)
    idle(page)
    assert page.locator("#picture-name").text_content() == expected[1]
    assert not visit.problems
    assert visit.hosts - {""} == {searched.url.partition("//")[2]}
    visit.context.close()


def test_without_an_index_there_is_no_search(browser: Browser, server: Running) -> None:
    visit = Visit(browser, server.url)
    expect(visit.page.locator("#find-open")).to_be_hidden()
    visit.context.close()
