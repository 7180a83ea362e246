"""Choosing a model and a precision in the page: the settings dialog in a real browser."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.variants import first_of
from tests.support.web_browser import Visit, answers, ask, idle, kept, said
from tests.support.web_server import Running, tokens_written


@pytest.fixture
def visit(browser: Browser, several: Running) -> Iterator[Visit]:
    made = Visit(browser, several.url)
    yield made
    assert made.problems == []
    made.context.close()


def asked(page: Page) -> list[dict[str, Any]]:
    """The requests that the page sends from now on."""
    sent: list[dict[str, Any]] = []
    page.on(
        "request",
        lambda request: request.method == "POST" and sent.append(json.loads(request.post_data or "")),
    )
    return sent


def open_settings(page: Page) -> Locator:
    page.locator("#settings-open").click()
    dialog = page.get_by_role("dialog", name="Settings")
    expect(dialog).to_be_visible()
    return dialog


def close_settings(page: Page) -> None:
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Settings")).to_be_hidden()


def radio(inside: Page | Locator, name: str) -> Locator:
    """By the beginning of what it says: explanations name other precisions."""
    return inside.get_by_role("radio", name=re.compile(f"^{name}"))


def choices(dialog: Locator, group: str) -> list[str]:
    return dialog.get_by_role("group", name=group).locator("label b").all_inner_texts()


def add_sample(page: Page) -> None:
    page.get_by_role("button", name="Sample: dog-and-apple.png").click()
    expect(answers(page)).to_have_count(1)
    idle(page)


def test_the_chosen_precision_answers_and_the_conversation_goes_on(visit: Visit, several: Running) -> None:
    page = visit.page
    chip = page.locator("#model")
    expect(chip).to_have_text("demo · fp32")
    sent = asked(page)
    add_sample(page)
    ask(page, "what is on the left?")
    expect(answers(page)).to_have_count(2)
    idle(page)
    assert [request["model"] for request in sent] == ["demo", "demo"]

    dialog = open_settings(page)
    assert choices(dialog, "Model") == ["demo", "t5"]
    assert choices(dialog, "Precision") == ["fp32", "int8"]
    expect(radio(dialog, "fp32")).to_be_checked()
    expect(dialog.get_by_text("start it with more")).to_be_hidden()
    radio(dialog, "int8 A quarter of the memory").check()
    close_settings(page)
    expect(chip).to_have_text("demo · int8")

    before = tokens_written(several)
    ask(page, "and what is right of it?")
    expect(answers(page)).to_have_count(3)
    idle(page)
    assert said(page, 2) == "an apple"
    assert sent[-1]["model"] == "demo:int8"
    assert [message["content"] for message in sent[-1]["messages"][1:]] == [
        "a dog",
        "and what is right of it?",
    ]
    after = tokens_written(several)
    assert after["demo:int8"] > before.get("demo:int8", 0) and after["demo"] == before["demo"]
    expect(page.get_by_text("Answers from here on: demo · int8")).to_have_count(1)

    kept(page)
    # A reload forgets neither the choice nor who wrote what.
    page.reload()
    expect(page.locator("body[data-ready]")).to_be_attached()
    expect(chip).to_have_text("demo · int8")
    expect(page.get_by_text("Answers from here on: demo · int8")).to_have_count(1)
    expect(radio(open_settings(page), "int8")).to_be_checked()


def test_another_model(visit: Visit) -> None:
    page = visit.page
    expect(page.get_by_text("Choose another in Settings.")).to_be_visible()
    dialog = open_settings(page)
    radio(dialog, "int8").check()
    radio(dialog, "t5 Flan-T5").check()
    # It is not here at int8.
    assert choices(dialog, "Precision") == ["fp32"]
    expect(radio(dialog, "fp32")).to_be_checked()
    expect(dialog.get_by_text("The server has this model at this precision only.")).to_be_visible()
    close_settings(page)
    expect(page.locator("#model")).to_have_text("t5 · fp32")
    # What is said of the embedded model, and its pictures, are not this one's.
    expect(page.locator("#hint")).to_be_hidden()
    expect(page.locator("#samples")).to_be_hidden()


def test_by_keyboard_alone(visit: Visit) -> None:
    page = visit.page
    page.locator("#model").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Settings")).to_be_visible()
    for expected in ("model-name", "precision"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == expected
    page.keyboard.press("ArrowDown")
    expect(radio(page, "int8")).to_be_checked()
    expect(radio(page, "int8")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowDown")
    expect(radio(page, "t5")).to_be_focused()
    close_settings(page)
    expect(page.locator("#model")).to_have_text("t5 · fp32")


def test_another_answer_from_another_model_is_its_likeliest(visit: Visit) -> None:
    """By the same one it would be a draw, or it would not be another."""
    page = visit.page
    add_sample(page)
    sent = asked(page)
    with page.expect_request("**/v1/chat/completions"):
        page.get_by_role("button", name="Regenerate").click()
    idle(page)
    radio(open_settings(page), "int8").check()
    close_settings(page)
    with page.expect_request("**/v1/chat/completions"):
        page.get_by_role("button", name="Regenerate").click()
    idle(page)
    expect(answers(page)).to_have_count(1)
    assert [(request["model"], request["temperature"] > 0) for request in sent] == [
        ("demo", True),
        ("demo:int8", False),
    ]


@pytest.mark.parametrize("saved", first_of('{"name": "gone", "precision": "int8"}', "not json", "null"))
def test_an_unknown_remembered_model_falls_back_to_the_first(visit: Visit, saved: str) -> None:
    page = visit.page
    page.evaluate("(saved) => localStorage.setItem('blip2-chat model', saved)", saved)
    page.reload()
    expect(page.locator("body[data-ready]")).to_be_attached()
    expect(page.locator("#model")).to_have_text("demo · fp32")


def test_one_model_alone_explains_how_to_load_more(browser: Browser, server: Running) -> None:
    visit = Visit(browser, server.url)
    dialog = open_settings(visit.page)
    assert (choices(dialog, "Model"), choices(dialog, "Precision")) == (["opt"], ["fp32"])
    expect(dialog.get_by_text("This is the only model on the server.")).to_be_visible()
    expect(dialog.locator("pre")).to_contain_text(
        "blip2-chat serve --model Salesforce/blip2-opt-2.7b --also Salesforce/blip2-opt-2.7b:int4"
    )
    expect(dialog.get_by_text("The next answers come from")).to_be_hidden()
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_on_a_phone(browser: Browser, several: Running, scheme: Any) -> None:
    visit = Visit(
        browser,
        several.url,
        viewport={"width": 360, "height": 740},
        color_scheme=scheme,
        is_mobile=True,
        has_touch=True,
    )
    page = visit.page
    chip = page.locator("#model")
    expect(chip).to_be_visible()
    chip.tap()
    dialog = page.get_by_role("dialog", name="Settings")
    dialog.get_by_text("int8", exact=True).tap()
    expect(chip).to_have_text("demo · int8")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.getElementById('settings').scrollWidth") <= 360
    for row in dialog.locator("#names label, #precisions label").all():
        box = row.bounding_box()
        assert box is not None and box["height"] >= 36 and box["x"] >= 0 and box["x"] + box["width"] <= 360
    visit.context.close()
