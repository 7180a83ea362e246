"""The live chat in a real JupyterLab, in a real browser: what a person does, and what they then read."""

from __future__ import annotations

from tests.support.extras import require

require("test-notebook")

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import blip2_chat
from tests.support.chromium import chromium
from tests.support.notebook_lab import jupyter, open_notebook, run_all, write_notebook

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium() is None, reason="there is no Chromium: `apt install chromium`, or set CHROMIUM to its path"
    ),
]
SAMPLES = Path(blip2_chat.__file__).parent / "demo" / "samples"
PATIENCE = 120_000  # milliseconds; a busy machine's browser takes its time
CELL = """\
import blip2_chat
from blip2_chat.notebook import ChatWidget

model = blip2_chat.load()
widget = ChatWidget(model)
widget
"""
# While there is a file of this name beside the notebook, an answer stays at its first word until it is stopped.
SLOW = """\
import time
from pathlib import Path

step = model.engine.inner.step

def held(*given):
    while Path("slow").exists() and not widget._stop.is_set():
        time.sleep(0.01)
    return step(*given)

model.engine.inner.step = held
"""


class Lab:
    """The notebook's page, and what went wrong on it."""

    def __init__(self, page: Any, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self.problems: list[str] = []
        self.outside: list[str] = []
        page.on("console", lambda told: told.type == "error" and self.problems.append(told.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self._asked(request.url))
        page.set_default_timeout(PATIENCE)

    def _asked(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
            self.outside.append(url)

    def idle(self) -> None:
        self.page.locator(".b2c-status progress").wait_for(state="detached")

    def captioned(self, word: str) -> None:
        """Waits for another picture's caption."""
        self.page.locator(f'.b2c figcaption:text("{word}")').wait_for()
        self.idle()

    def choose(self, file: Any) -> None:
        self.page.locator(".b2c input[type=file]").set_input_files(file)

    def ask(self, question: str) -> str:
        """The answer, as it stands in the conversation."""
        turns = self.page.locator(".b2c-turn:not(.b2c-growing)")
        before = turns.count()
        self.page.get_by_label("Question", exact=True).fill(question)
        self.page.keyboard.press("Enter")
        turns.nth(before).wait_for()
        self.idle()
        text: str = turns.nth(before).locator(".b2c-answer").inner_text()
        return text.removeprefix("Answer: ")


@contextmanager
def visit(browser: Any, folder: Path, app: str) -> Iterator[Lab]:
    """The live chat as the output of a cell, in JupyterLab or Notebook 7."""
    write_notebook(folder / "live.ipynb", [CELL, SLOW])
    with jupyter(folder, app, {"OMP_NUM_THREADS": "1"}) as address:
        made = Lab(browser.new_page(viewport={"width": 1180, "height": 860}), folder)
        open_notebook(made.page, address, "live.ipynb", app)
        run_all(made.page)
        made.page.locator(".b2c").wait_for()
        yield made
        made.page.close()


@pytest.fixture(scope="module")
def lab(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with visit(browser, tmp_path_factory.mktemp("lab"), "jupyterlab") as made:
        yield made


# One visit, in this order: starting JupyterLab and a kernel takes longer than all that is done there.


def test_a_picture_is_uploaded_and_two_questions_get_right_answers(lab: Lab) -> None:
    assert lab.page.get_by_role("button", name="Ask").is_disabled(), "before there is a picture"
    lab.choose(SAMPLES / "dog-and-apple.png")
    lab.page.locator(".b2c figcaption:not(:empty)").wait_for()
    lab.idle()
    assert lab.page.locator(".b2c figcaption").inner_text() == "a dog and an apple on a blue background"
    image = lab.page.locator(".b2c img")
    assert image.get_attribute("alt") == "a dog and an apple on a blue background"
    assert image.evaluate("picture => picture.naturalWidth") == 640
    assert lab.ask("what is on the left?") == "a dog"
    assert lab.ask("and what is right of it?") == "an apple"
    assert lab.page.locator(".b2c-turn").count() == 2


def test_a_bad_file_is_one_line_and_the_chat_goes_on(lab: Lab) -> None:
    lab.choose({"name": "notes.png", "mimeType": "image/png", "buffer": b"not a picture"})
    error = lab.page.get_by_role("alert").filter(has_text="notes.png")
    error.wait_for()
    assert error.inner_text().startswith("notes.png is text, not a picture")
    assert error.evaluate("line => line.getBoundingClientRect().bottom <= innerHeight"), (
        "and not out of sight"
    )
    lab.idle()
    assert lab.ask("what colour is the background?") == "blue"
    assert lab.page.locator(".b2c-error").inner_text() == ""


def test_by_keyboard_alone(lab: Lab) -> None:
    page = lab.page
    page.get_by_label("Question", exact=True).focus()
    names = []
    for _ in range(5):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.textContent || document.activeElement.tagName"))
    assert names[:4] == ["Ask", "Undo", "Start over", "Save"], names
    page.get_by_role("button", name="Undo").focus()
    page.keyboard.press("Enter")  # and not JupyterLab's "Enter", which would go into the cell
    page.locator(".b2c-turn").nth(2).wait_for(state="detached")
    lab.idle()  # or the next question would not be taken
    assert page.evaluate("document.activeElement.closest('.b2c') !== null")
    # Letters are JupyterLab's commands elsewhere ("d d" deletes a cell).
    question = page.get_by_label("Question", exact=True)
    question.focus()
    page.keyboard.type("dd is there a car?")
    assert question.input_value() == "dd is there a car?"
    question.fill("is there a car?")
    page.keyboard.press("Enter")
    page.locator(".b2c-turn:not(.b2c-growing)").nth(2).wait_for()
    lab.idle()
    assert page.locator(".b2c-turn").nth(2).locator(".b2c-answer").inner_text() == "Answer: no"
    assert page.locator(".jp-Cell").count() == 2


def test_everything_has_a_name_for_a_screen_reader(lab: Lab) -> None:
    nameless = lab.page.locator(".b2c").evaluate(
        """root => [...root.querySelectorAll("button, input:not([hidden]), [role], progress, img")].filter(one =>
            !(one.getAttribute("aria-label") || one.textContent.trim() || one.alt
              || (one.labels && one.labels.length) || ["alert", "status"].includes(one.getAttribute("role")))
        ).map(one => one.outerHTML)"""
    )
    assert nameless == []
    log = lab.page.get_by_role("log", name="Conversation")
    assert log.get_attribute("aria-live") == "polite" and log.get_attribute("aria-busy") == "false"
    assert lab.page.get_by_role("region", name="Chat about a picture").count() == 1


def test_the_conversation_is_saved_as_a_file_that_loads(lab: Lab, tmp_path: Path) -> None:
    with lab.page.expect_download() as started:
        lab.page.get_by_role("button", name="Save", exact=True).click()
    assert started.value.suggested_filename == "dog-and-apple-conversation.json"
    started.value.save_as(tmp_path / "talk.json")
    saved = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert [turn["question"] for turn in saved["turns"]][1:] == [
        "what is on the left?",
        "and what is right of it?",
        "is there a car?",
    ]
    again = blip2_chat.load().load_chat(tmp_path / "talk.json")
    assert again.turns[1].text == "a dog"


def test_a_pasted_and_a_dropped_picture(lab: Lab) -> None:
    for kind, name in (("paste", "street.png"), ("drop", "birthday.png")):
        content = list((SAMPLES / name).read_bytes())
        lab.page.locator(".b2c-drop").evaluate(
            """(target, [kind, name, content]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(content)], name, { type: "image/png" }));
                const how = kind === "paste"
                    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })
                    : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
                target.dispatchEvent(how);
            }""",
            [kind, name, content],
        )
        lab.captioned("bus" if kind == "paste" else "cake")
        assert lab.page.locator(".b2c-turn").count() == 0, "a new picture is a new conversation"
    assert lab.ask("is there a gift?") == "yes"
    lab.page.get_by_role("button", name="Start over").click()
    lab.page.locator(".b2c-turn").wait_for(state="detached")
    assert "cake" in lab.page.locator(".b2c figcaption").inner_text()


def test_a_picture_is_chosen_by_keyboard(lab: Lab) -> None:
    from playwright.sync_api import TimeoutError as NotYet

    lab.idle()
    for _ in range(5):
        # A key is lost where the button is just being enabled again.
        with suppress(NotYet):
            with lab.page.expect_file_chooser(timeout=10_000) as chooser:
                lab.page.get_by_role("button", name="Choose another picture").press("Enter")
            chooser.value.set_files(SAMPLES / "night-sky.png")
            break
    lab.captioned("moon")


def test_an_answer_streams_and_escape_stops_it(lab: Lab) -> None:
    growing = lab.page.locator(".b2c-growing .b2c-answer")
    slow = lab.folder / "slow"
    slow.touch()
    lab.page.get_by_label("Question", exact=True).fill("what is on the left?")
    lab.page.keyboard.press("Enter")
    growing.filter(has_text=re.compile("Answer: a")).wait_for()
    assert lab.page.get_by_role("status").filter(has_text="Answering…").locator("progress").count() == 1
    assert lab.page.get_by_role("log").get_attribute("aria-busy") == "true"
    assert lab.page.get_by_role("button", name="Stop").is_enabled()
    lab.page.keyboard.press("Escape")
    stopped = lab.page.locator(".b2c-turn:not(.b2c-growing)").last
    stopped.filter(has_text="(stopped)").wait_for()
    slow.unlink()
    lab.idle()
    assert "Answer: a" in stopped.inner_text()
    assert lab.ask("what is on the right?") == "a star"


def test_an_address_is_opened(lab: Lab) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(SAMPLES))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for address, word in (
            (str(SAMPLES / "farm.png"), "cow"),
            (f"http://127.0.0.1:{server.server_port}/street.png", "bus"),
        ):
            lab.page.get_by_label("Address").fill(address)
            lab.page.keyboard.press("Enter")
            lab.captioned(word)
        lab.page.get_by_label("Address").fill(f"http://127.0.0.1:{server.server_port}/none.png")
        lab.page.keyboard.press("Enter")
        lab.page.get_by_role("alert").filter(has_text="none.png").wait_for()
        server.shutdown()


def test_the_page_logs_no_error_and_contacts_no_other_host(lab: Lab) -> None:
    assert lab.problems == []
    assert lab.outside == []


def test_in_notebook_7(browser: Any, tmp_path: Path) -> None:
    """What `jupyter notebook` opens, and README.md says to run."""
    with visit(browser, tmp_path, "notebook") as seven:
        seven.choose(SAMPLES / "dog-and-apple.png")
        seven.captioned("dog")
        assert seven.ask("what is on the left?") == "a dog"
        assert seven.ask("and what is right of it?") == "an apple"
        # Its page has an error of its own ("reading 'schema'"), with an empty notebook too.
        assert [one for one in seven.problems if "'schema'" not in one] == seven.outside == []
