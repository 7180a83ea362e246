"""The page as people use it: half-typed questions, several bad files, small windows."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.variants import first_of
from tests.support.web_browser import Visit, answers, ask, idle
from tests.support.web_server import MakeModel, Running, picture, running

# Whether the browser is left to do what it does with what is dragged over an element, and dropped there.
LEFT = """([selector, kind]) => ["dragover", "drop"].map((name) => {
  const dataTransfer = new DataTransfer();
  if (kind === "text") dataTransfer.setData("text/plain", "what is this?");
  else dataTransfer.items.add(new File(["text"], "notes.png", { type: "image/png" }));
  const event = new DragEvent(name, { dataTransfer, bubbles: true, cancelable: true });
  return document.querySelector(selector).dispatchEvent(event);
})"""


@pytest.fixture
def page(browser: Browser, server: Running) -> Iterator[Page]:
    visit = Visit(browser, server.url)
    yield visit.page
    visit.context.close()


def add(page: Page, *files: tuple[str, bytes]) -> None:
    given = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files]
    page.set_input_files("#file", given)  # type: ignore[arg-type]


def test_undo_leaves_what_is_being_typed(page: Page) -> None:
    add(page, ("a.png", picture(1)))
    idle(page)
    ask(page, "what is this?")
    expect(answers(page)).to_have_count(2)
    idle(page)
    page.locator("#question").fill("and what is behi")
    page.locator("#undo").click()
    expect(answers(page)).to_have_count(1)
    expect(page.locator("#question")).to_have_value("and what is behi")


def test_each_bad_file_is_reported(page: Page) -> None:
    add(page, ("a.png", b"text"), ("good.png", picture(1)), ("b.png", b""))
    lines = page.locator("#alert-text p")
    expect(lines).to_have_count(2)
    expect(lines.nth(0)).to_contain_text("a.png cannot be opened: it is text, not a picture")
    expect(lines.nth(1)).to_contain_text("b.png cannot be opened: it is empty")
    idle(page)
    # Those of the next files are told alone.
    add(page, ("c.png", b"text"))
    expect(lines).to_have_count(1)
    expect(lines).to_contain_text("c.png")


def test_text_is_dragged_into_the_question_and_nowhere_else(page: Page) -> None:
    add(page, ("a.png", picture(1)))
    idle(page)
    assert page.evaluate(LEFT, ["#question", "text"]) == [True, True]
    assert page.evaluate(LEFT, ["#picture", "text"]) == [False, False]
    assert page.evaluate(LEFT, ["#question", "file"]) == [False, False]
    expect(page.locator("#alert-text")).to_contain_text("notes.png")


@pytest.mark.parametrize(
    ("width", "height"), first_of((320, 256), (640, 400), (740, 360), (390, 460), (1000, 320))
)
def test_a_conversation_is_seen_in_a_low_window(page: Page, width: int, height: int) -> None:
    """A page at 200 % and at 400 %, a phone on its side, and one with its keyboard open."""
    page.set_viewport_size({"width": width, "height": height})
    add(page, ("a.png", picture(1, 600)), ("b.png", picture(2, 600)))
    expect(page.locator("#tabs button")).to_have_count(2)
    idle(page)
    expect(page.locator("#picture")).to_be_in_viewport(ratio=0.9)
    ask(page, "what is this?")
    expect(answers(page)).to_have_count(2)
    idle(page)
    assert page.locator("#turns").evaluate("log => log.clientHeight") >= 100
    expect(answers(page).last).to_be_in_viewport()
    expect(page.locator("#question")).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    add(page, ("c.png", b"text"))
    expect(page.locator("#alert-close")).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("key", [None, "sesame"])
def test_a_start_that_fails_says_how_to_try_again(
    browser: Browser, make_model: MakeModel, key: str | None
) -> None:
    with running(make_model(), api_key=key) as locked:
        context = browser.new_context()
        page = context.new_page()
        if key is None:
            page.route("**/v1/models", lambda route: route.abort())
        page.goto(locked.url)
        if key is not None:
            expect(page.locator("#key")).to_be_visible()
            page.keyboard.press("Escape")
        told = page.locator("#alert-text p")
        expect(told).to_contain_text("Reload this page to try again.")
        expect(page.locator("#model")).to_be_hidden()
        page.locator("#alert-close").click()
        add(page, ("a.png", picture(1)))
        expect(told).to_contain_text("API key" if key else "Is it still running?")
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_question_has_an_edge_that_is_seen(browser: Browser, server: Running, scheme: Any) -> None:
    """3:1 at least, as WCAG 1.4.11 has it."""
    visit = Visit(browser, server.url, color_scheme=scheme)
    colours = visit.page.evaluate("""() => {
      const { borderColor, backgroundColor } = getComputedStyle(document.getElementById("question"));
      return [borderColor, backgroundColor].map((colour) => colour.match(/\\d+/g).map((part) => part / 255));
    }""")
    dark, light = sorted(0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
                         for red, green, blue in colours)  # fmt: skip
    assert (light + 0.05) / (dark + 0.05) >= 3
    visit.context.close()


def test_reduced_motion_is_respected(browser: Browser, server: Running) -> None:
    visit = Visit(browser, server.url, reduced_motion="reduce")
    moving = """(name) => {
      document.body.append(Object.assign(document.createElement("span"), { className: name }));
      return getComputedStyle(document.body.lastChild, "::after").animationName;
    }"""
    assert visit.page.evaluate(moving, "waiting") == "none"
    visit.context.close()


def test_settings_can_be_closed_from_their_end(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 700})
    page.locator("#settings-open").click()
    page.locator("#forget").scroll_into_view_if_needed()
    expect(page.get_by_role("button", name="Close settings")).to_be_in_viewport(ratio=1)


def test_a_phone_is_not_asked_to_drop_files_or_press_keys(browser: Browser, server: Running) -> None:
    options: Any = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    visit = Visit(browser, server.url, **options)
    expect(visit.page.get_by_role("heading", name="Start with a picture")).to_be_visible()
    expect(visit.page.locator("kbd").first).to_be_hidden()
    add(visit.page, ("a.png", picture(1)))
    idle(visit.page)
    expect(visit.page.get_by_text("Regenerate")).to_be_in_viewport(ratio=1)
    visit.context.close()
