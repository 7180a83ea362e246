"""The page in a real browser: Chromium, driven by Playwright."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from blip2_chat.conversation_file import SavedConversation
from blip2_chat.model import Model
from tests.support.variants import first_of
from tests.support.waiting import wait_until
from tests.support.web_browser import Visit, answers, ask, idle, kept, said
from tests.support.web_server import MakeModel, Running, gated, picture, running


@pytest.fixture
def visit(browser: Browser, server: Running) -> Iterator[Visit]:
    made = Visit(browser, server.url)
    yield made
    assert made.hosts <= {urlsplit(server.url).netloc, ""}, "the page asked somebody else"
    made.context.close()


@pytest.fixture(scope="module")
def reference(make_model: MakeModel) -> Model:
    return make_model()


def add(page: Page, *numbers: int) -> None:
    files = [
        {"name": f"p{number}.png", "mimeType": "image/png", "buffer": picture(number)} for number in numbers
    ]
    page.set_input_files("#file", files)  # type: ignore[arg-type]


def test_a_conversation(visit: Visit, reference: Model) -> None:
    page, chat = visit.page, reference.chat(picture(1))
    expect(page.get_by_text("Drop a picture here")).to_be_visible()
    add(page, 1)
    expect(page.locator("#picture")).to_be_visible()
    idle(page)
    assert said(page, 0) == chat.caption().text
    ask(page, "what is on the left?")
    expect(answers(page)).to_have_count(2)
    idle(page)
    assert said(page, 1) == chat.ask("what is on the left?").text
    ask(page, "and on the right?")
    expect(answers(page)).to_have_count(3)
    idle(page)
    assert said(page, 2) == chat.ask("and on the right?").text
    # Advice: the picture is 64 pixels wide and fine; a smaller one is not.
    expect(page.locator("#advice li")).to_have_count(0)

    page.get_by_role("button", name="Undo").click()
    expect(answers(page)).to_have_count(2)
    assert page.input_value("#question") == "and on the right?"
    first = said(page, 1)
    page.get_by_role("button", name="Regenerate").click()
    expect(answers(page)).to_have_count(2)
    idle(page)
    assert said(page, 1) != first

    kept(page)
    page.reload()
    expect(page.locator("body[data-ready]")).to_be_attached()
    expect(answers(page)).to_have_count(2)
    assert said(page, 0) == chat.turns[0].text
    ask(page, "still there?")
    expect(answers(page)).to_have_count(3)
    idle(page)
    assert visit.problems == []


def test_an_unreadable_file_is_reported_and_changes_nothing(visit: Visit) -> None:
    page = visit.page
    add(page, 1)
    idle(page)
    broken = {"name": "holiday.png", "mimeType": "image/png", "buffer": b"not a picture"}
    page.set_input_files("#file", [broken])  # type: ignore[arg-type]
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("holiday.png cannot be opened")
    expect(page.get_by_role("tab")).to_have_count(1)
    expect(page.locator("#picture-name")).to_have_text("p1.png")
    page.get_by_role("button", name="Dismiss").click()
    expect(alert).to_be_hidden()


def test_several_pictures_by_keyboard_alone(visit: Visit, reference: Model) -> None:
    page = visit.page
    add(page, 1, 2, 3)
    tabs = page.get_by_role("tab")
    expect(tabs).to_have_count(3)
    idle(page)
    captions = [reference.chat(picture(number)).caption().text for number in (1, 2, 3)]
    assert said(page, 0) == captions[0]
    # From the question back to the tabs, without a mouse.
    for _ in range(20):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "tab":
            break
    expect(page.locator(":focus")).to_have_attribute("aria-selected", "true")
    for place in (1, 2, 0):
        page.keyboard.press("ArrowRight")
        expect(tabs.nth(place)).to_have_attribute("aria-selected", "true")
        expect(tabs.nth(place)).to_be_focused()
        assert said(page, 0) == captions[place]
    # On to the question by Tab; Enter asks, and it belongs to this picture alone.
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "question":
            break
    page.keyboard.type("what is this?")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_count(2)
    idle(page)
    tabs.nth(1).click()
    expect(answers(page)).to_have_count(1)
    page.get_by_role("button", name="Remove this picture").click()
    expect(tabs).to_have_count(2)
    # Settings open, and Escape closes them.
    page.locator("#settings-open").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Settings")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Settings")).to_be_hidden()


_DROP = """([data, kind]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "given.png", { type: "image/png" }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
    : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_dropped_or_pasted(visit: Visit, reference: Model, kind: str) -> None:
    page = visit.page
    page.evaluate(_DROP, [base64.b64encode(picture(6)).decode(), kind])
    expect(page.locator("#picture-name")).to_have_text("given.png")
    expect(answers(page)).to_have_count(1)
    idle(page)
    assert said(page, 0) == reference.chat(picture(6)).caption().text


def test_a_photo_from_the_camera(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Take a photo").click()
    dialog = page.get_by_role("dialog", name="Take a photo")
    expect(dialog).to_be_visible()
    assert wait_until(lambda: page.locator("#video").evaluate("video => video.videoWidth > 0"))
    page.get_by_role("button", name="Take photo").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#picture-name")).to_have_text("photo.png")
    idle(page)


def test_stop_keeps_the_text_written_so_far(browser: Browser, make_model: MakeModel) -> None:
    model = gated(make_model())
    with running(model) as server:
        visit = Visit(browser, server.url)
        page = visit.page
        model.gate.set()
        add(page, 1)
        expect(answers(page)).to_have_count(1)
        idle(page)
        model.gate.let(5)
        ask(page, "what is this, in many words?")
        expect(answers(page).nth(1)).not_to_have_text("Answer: ")
        page.keyboard.press("Escape")
        expect(page.get_by_text("Stopped.", exact=True)).to_be_visible()
        idle(page)
        assert said(page, 1)
        model.gate.set()
        ask(page, "and now?")
        expect(answers(page)).to_have_count(3)
        idle(page)
        visit.context.close()


def test_settings_change_answers_and_stay(visit: Visit, reference: Model) -> None:
    page = visit.page
    page.locator("#settings-open").click()
    page.get_by_role("radio", name="Search").check()
    page.locator("#max_tokens").fill("10")
    page.get_by_role("radio", name="Dark").check()
    page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    add(page, 2)
    idle(page)
    expected = reference.chat(picture(2), num_beams=4, max_new_tokens=10).caption()
    assert said(page, 0) == expected.text
    page.reload()
    expect(page.locator("body[data-ready]")).to_be_attached()
    page.locator("#settings-open").click()
    expect(page.get_by_role("radio", name="Beam search")).to_be_checked()
    expect(page.get_by_role("radio", name="fp32")).to_be_checked()
    expect(page.get_by_text("start the server with more")).to_be_visible()


def test_the_download_opens_in_python(visit: Visit, reference: Model, tmp_path: Path) -> None:
    page = visit.page
    add(page, 4)
    idle(page)
    ask(page, "what is this?")
    expect(answers(page)).to_have_count(2)
    idle(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "p4-conversation.json"
    saved = tmp_path / "talk.json"
    download.value.save_as(saved)
    described = SavedConversation.read(saved)
    assert described.picture.name == "p4.png" and len(described.turns) == 2
    # Nothing that the description does not have, on either level.
    written = json.loads(saved.read_text("utf-8"))
    assert written.keys() == described.to_dict().keys()
    assert written["picture"] == described.to_dict()["picture"]
    assert all(turn.keys() == described.to_dict()["turns"][0].keys() for turn in written["turns"])
    chat = reference.load_chat(saved)
    assert [turn.text for turn in chat.turns] == [said(page, 0), said(page, 1)]
    assert chat.turns[1].question == "what is this?"
    assert json.loads(saved.read_text("utf-8"))["model"] == "opt"


def test_a_picture_that_comes_before_the_server_has_answered(browser: Browser, server: Running) -> None:
    context = browser.new_context()
    page = context.new_page()
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.goto(server.url)
    # The scripts have run once they ask for the models. Playwright hears of that only while it waits for something.
    assert wait_until(lambda: page.wait_for_timeout(10) or held)
    add(page, 1)
    held[0].continue_()
    expect(answers(page)).to_have_count(1)
    idle(page)
    assert said(page, 0)
    context.close()


def test_copy(visit: Visit) -> None:
    page = visit.page
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    add(page, 4)
    idle(page)
    page.locator("#copy-all").click()
    expect(page.locator("#status")).to_have_text("Copied.")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"About p4.png\n\nCaption:\n{said(page, 0)}\n"


def test_advice_about_a_dark_picture(visit: Visit, tmp_path: Path) -> None:
    dark = tmp_path / "night.png"
    Image.effect_noise((300, 300), 5).point(lambda value: value // 12).convert("RGB").save(dark)
    visit.page.set_input_files("#file", dark)
    expect(visit.page.locator("#advice li").first).to_contain_text("dark")


@pytest.mark.parametrize("scheme", first_of("light", "dark"))
def test_the_page_on_a_phone(browser: Browser, server: Running, scheme: Any) -> None:
    viewport: Any = {"width": 360, "height": 740}
    visit = Visit(browser, server.url, viewport=viewport, color_scheme=scheme, is_mobile=True, has_touch=True)
    page = visit.page
    add(page, 1, 2)
    idle(page)
    ask(page, "what is this?")
    expect(answers(page)).to_have_count(2)
    idle(page)
    assert wait_until(lambda: page.locator("#picture").evaluate("picture => picture.naturalWidth > 0"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for name in ("#question", "#send", "#picture", "#undo", "#settings-open"):
        box = page.locator(name).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 360
        assert box["y"] + box["height"] <= 740
    # Large enough for a finger.
    for button in page.locator("main button:visible").all():
        box = button.bounding_box()
        assert box is not None and box["height"] >= 36 and box["width"] >= 36
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", background)[:3])) > 380
    assert light == (scheme == "light")
    visit.context.close()


def test_every_control_has_a_name(visit: Visit) -> None:
    """For those who listen: what each button, field and picture is."""
    page = visit.page
    add(page, 1)
    idle(page)
    for selector in ("button:visible", "textarea:visible", "[role=tab]", "[role=log]"):
        for control in page.locator(selector).all():
            snapshot = control.aria_snapshot()
            assert '"' in snapshot or ":" in snapshot, snapshot
    assert page.locator("#picture").get_attribute("alt") == said(page, 0)
    assert page.evaluate("document.documentElement.lang") == "en"
    expect(page.locator("#status")).to_have_text(f"Caption: {said(page, 0)}")


def test_a_server_with_a_key(browser: Browser, make_model: MakeModel) -> None:
    with running(make_model(), api_key="open sesame") as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        refused = page.get_by_text("The server did not accept that key.")
        for key in ("wrong", "open sesame"):
            dialog = page.get_by_role("dialog", name="This server requires an API key")
            expect(dialog).to_be_visible()
            expect(refused).to_be_visible(visible=key != "wrong")
            page.get_by_role("textbox", name="API key").fill(key)
            page.keyboard.press("Enter")
        expect(page.locator("body[data-ready]")).to_be_attached()
        add(page, 1)
        idle(page)
        expect(answers(page)).to_have_count(1)
        context.close()


def test_it_works_without_any_network_but_the_server(browser: Browser, server: Running) -> None:
    """Everything that is not the server's own is cut off, and nothing is missed."""
    context = browser.new_context()
    page = context.new_page()
    refused: list[str] = []

    def gate(route: Route) -> None:
        if route.request.url.startswith((server.url, "blob:", "data:")):
            route.continue_()
        else:
            refused.append(route.request.url)
            route.abort()

    page.route("**/*", gate)
    page.goto(server.url)
    expect(page.locator("body[data-ready]")).to_be_attached()
    add(page, 1)
    idle(page)
    expect(answers(page)).to_have_count(1)
    assert refused == []
    context.close()
