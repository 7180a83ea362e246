"""The page while something is written: clicks, reloads and servers that go, all at the wrong moment."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.variants import first_of
from tests.support.waiting import wait_until
from tests.support.web_browser import Visit, answers, ask, idle, kept, said, stored
from tests.support.web_server import MakeModel, Running, gated, picture, running


@pytest.fixture(scope="module")
def slow_model(make_model: MakeModel) -> Any:
    return gated(make_model())


@pytest.fixture(scope="module")
def slow(slow_model: Any) -> Iterator[Running]:
    """A server whose answers stay at their first word until `slow_model.gate` is set."""
    with running(slow_model) as one:
        yield one


@pytest.fixture
def page(browser: Browser, slow: Running, slow_model: Any) -> Iterator[Page]:
    slow_model.gate.set()
    visit = Visit(browser, slow.url)
    yield visit.page
    slow_model.gate.set()
    assert not visit.problems
    visit.context.close()


def add(page: Page, *numbers: int) -> None:
    files = [
        {"name": f"p{number}.png", "mimeType": "image/png", "buffer": picture(number)} for number in numbers
    ]
    page.set_input_files("#file", files)  # type: ignore[arg-type]


def chosen(page: Page) -> Any:
    return page.locator('#tabs [aria-selected="true"]')


def ask_and_hold(page: Page, model: Any, question: str) -> None:
    """A question whose answer does not come before `model.gate` is set."""
    model.gate.clear()
    ask(page, question)
    expect(page.locator(".growing")).to_be_visible()


def test_the_caption_of_each_picture_comes_before_its_questions(page: Page, slow_model: Any) -> None:
    slow_model.gate.clear()
    add(page, 1, 2)
    page.locator("#tabs button").nth(1).click()
    ask(page, "too early?")
    expect(answers(page)).to_have_count(1)
    slow_model.gate.set()
    idle(page)
    assert said(page, 0)
    # It is still there to be asked.
    expect(page.locator("#question")).to_have_value("too early?")
    page.locator("#question").press("Enter")
    expect(answers(page)).to_have_count(2)
    idle(page)


def test_a_duplicated_tab_goes_on_with_a_copy_of_its_own(page: Page) -> None:
    add(page, 1)
    idle(page)
    kept(page)
    with page.expect_popup() as opened:
        page.evaluate("window.open('/')")  # with what the session has, as a duplicated tab
    other = opened.value
    expect(other.locator("#tabs button")).to_have_count(1)
    add(other, 2)
    expect(other.locator("#tabs button")).to_have_count(2)
    idle(other)
    kept(other)
    page.reload()
    expect(page.locator("#picture")).to_be_visible()
    expect(page.locator("#tabs button")).to_have_count(1)
    other.reload()
    expect(other.locator("#tabs button")).to_have_count(2)
    assert said(other, 0)


@pytest.mark.parametrize("limits", first_of({"max_messages": 4}, {"max_text": 260}))
def test_a_long_conversation_goes_on(browser: Browser, make_model: MakeModel, limits: dict[str, int]) -> None:
    with running(make_model(), **limits) as server:
        visit = Visit(browser, server.url)
        add(visit.page, 1)
        idle(visit.page)
        for count in range(2, 6):
            ask(visit.page, "what is this? " + "x" * 60)
            expect(answers(visit.page)).to_have_count(count)
            idle(visit.page)
        assert visit.problems == []
        visit.context.close()


def test_a_click_on_a_tab_while_words_come(page: Page, slow_model: Any) -> None:
    add(page, 1, 2)
    idle(page)
    ask_and_hold(page, slow_model, "what is this, in many words?")
    other = page.locator("#tabs button").nth(1)
    other.hover()
    page.mouse.down()
    slow_model.gate.set()
    idle(page)
    page.mouse.up()
    expect(chosen(page)).to_have_attribute("title", "p2.png")


def test_by_keyboard_the_focus_is_never_lost(page: Page, slow_model: Any) -> None:
    add(page, 1)
    idle(page)
    slow_model.gate.clear()
    page.locator("#question").fill("what is this?")
    page.locator("#send").press("Enter")
    expect(page.locator("#stop")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#send")).to_be_focused()
    expect(page.locator("#status")).to_have_text("The answer was stopped.")
    slow_model.gate.set()


def test_a_reload_keeps_the_question_that_is_answered(page: Page, slow_model: Any) -> None:
    add(page, 1)
    idle(page)
    ask_and_hold(page, slow_model, "what is on the left?")
    assert wait_until(lambda: [len(turns) for turns in stored(page)] == [2])
    page.reload()
    expect(page.locator(".asked")).to_have_text("You: what is on the left?")
    expect(page.get_by_text("Stopped.")).to_be_visible()
    slow_model.gate.set()
    page.locator("#again").click()
    expect(page.get_by_text("Stopped.")).to_be_hidden()
    idle(page)
    assert said(page, 1)


def test_a_reload_before_the_caption_leaves_it_to_be_asked_for(page: Page, slow_model: Any) -> None:
    slow_model.gate.clear()
    add(page, 1, 2)
    assert wait_until(lambda: [len(turns) for turns in stored(page)] == [1, 1])
    page.reload()
    slow_model.gate.set()
    for place in (0, 1):
        page.locator("#tabs button").nth(place).click()
        page.locator("#again").click()
        idle(page)
        assert said(page, 0) not in ("", "(nothing)")


def test_a_picture_removed_before_its_caption_is_not_asked_about(page: Page, slow_model: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: request.method == "POST" and asked.append(request.url))
    slow_model.gate.clear()
    add(page, 1, 2)
    page.locator("#tabs button").nth(1).click()
    page.locator("#remove").click()
    slow_model.gate.set()
    idle(page)
    # By the time that another question is answered it would have been asked.
    ask(page, "what is this?")
    expect(answers(page)).to_have_count(2)
    idle(page)
    assert len(asked) == 2


def test_a_connection_that_breaks(page: Page, slow_model: Any) -> None:
    add(page, 1)
    idle(page)
    page.evaluate(
        """window.fetch = async () => new Response(new ReadableStream({
            pull: (stream) => stream.error(new TypeError("network error")) }))"""
    )
    ask(page, "are you there?")
    lost = "The answer is incomplete: the connection to the server was lost."
    expect(answers(page).nth(1)).to_have_text(f"Answer: {lost}")


def test_a_server_that_is_gone(browser: Browser, several: Running) -> None:
    visit = Visit(browser, several.url)
    page = visit.page
    visit.context.route("**/*", lambda route: route.abort())
    page.locator("#sample-list button").first.click()
    expect(page.locator("#alert-text")).to_have_text("The server does not respond. Is it still running?")
    add(page, 1)
    expect(answers(page)).to_have_text(["Caption: The server does not respond. Is it still running?"])
    expect(page.locator("#download")).to_be_disabled()
    visit.context.close()


def test_a_second_click_is_no_second_photo(page: Page) -> None:
    page.locator("#welcome-photo").dblclick()
    expect(page.locator("#camera")).to_be_visible()
    assert wait_until(lambda: page.locator("#video").evaluate("video => video.videoWidth > 0"))
    page.locator("#shoot").dblclick()
    expect(page.locator("#tabs button")).to_have_count(1)
    idle(page)
    expect(page.locator("#tabs button")).to_have_count(1)


def test_a_server_with_one_slot_offers_no_search(browser: Browser, make_model: MakeModel) -> None:
    with running(make_model(), slots=1) as server:
        visit = Visit(browser, server.url)
        visit.page.evaluate("""localStorage.setItem("blip2-chat settings", '{"mode": "beams"}')""")
        visit.page.reload()
        add(visit.page, 1)
        expect(answers(visit.page)).to_have_count(1)
        idle(visit.page)
        assert visit.problems == []
        visit.page.locator("#settings-open").click()
        expect(visit.page.get_by_role("radio", name="Beam search")).to_be_disabled()
        expect(visit.page.get_by_role("radio", name="Greedy")).to_be_checked()
        visit.context.close()


def test_a_key_that_no_header_can_carry_is_refused(page: Page) -> None:
    """It would be kept, and each request fail before it is sent."""
    field = page.locator("#key-text")
    for key, valid in (("sesame-17", True), ("сезам", False)):
        assert (
            field.evaluate("(field, key) => { field.value = key; return field.checkValidity(); }", key)
            == valid
        )
