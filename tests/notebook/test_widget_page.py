"""ChatWidget's page in a real browser, without a notebook: what it sends, and what it does with what it is sent."""

from __future__ import annotations

from tests.support.extras import require

require("test-notebook")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import blip2_chat
from tests.support.chromium import chromium

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="there is no Chromium: `apt install chromium`, or set CHROMIUM to its path"
)
SCRIPT = Path(blip2_chat.__file__).parent / "notebook" / "widget.js"
# Two views of one widget, as a notebook has when the widget is shown in two cells.
VIEWS = """() => {
  const traits = { picture: { src: "data:," }, advice: [], turns: [], max_bytes: 1e8 };
  const listeners = [];
  window.sent = [];
  const model = {
    get: (trait) => traits[trait] ?? "",
    on: (name, listener) => name === "msg:custom" && listeners.push(listener),
    send: (message) => {
      window.sent.push(message);
      if (message.kind === "save")
        for (const listener of listeners) listener({ kind: "saved", name: "cow-conversation.json", text: "{}" });
    },
  };
  for (let view = 0; view < 2; view++) {
    const el = document.body.appendChild(document.createElement("div"));
    window.render({ model, el });
  }
}"""


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    made = browser.new_page()
    script = SCRIPT.read_text(encoding="utf-8")
    made.add_script_tag(
        type="module", content=script.replace("export default { render }", "window.render = render")
    )
    made.wait_for_function("Boolean(window.render)")  # a module runs when it likes
    made.evaluate(VIEWS)
    yield made
    made.close()


def test_a_conversation_is_saved_once_however_often_the_widget_is_shown(page: Any) -> None:
    page.evaluate("""() => {
      const click = HTMLAnchorElement.prototype.click;
      window.saved = [];
      HTMLAnchorElement.prototype.click = function () { window.saved.push(this.download); click.call(this); };
    }""")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").nth(1).click()
    assert download.value.suggested_filename == "cow-conversation.json"
    # All views have heard of it by then: they are told in the click.
    assert page.evaluate("window.saved") == ["cow-conversation.json"]


def test_two_pictures_at_once_are_sent_one_after_the_other(page: Any) -> None:
    paste = """() => {
      for (const name of ["a.png", "b.png"]) {
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([new Uint8Array(3 << 20)], name, { type: "image/png" }));
        document.querySelector(".b2c").dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
      }
    }"""
    page.evaluate(paste)
    page.wait_for_function("window.sent.length === 6")
    assert page.evaluate("window.sent.map((part) => part.name)") == ["a.png"] * 3 + ["b.png"] * 3


def test_an_unreadable_file_is_reported_and_the_next_one_sent(page: Any) -> None:
    page.evaluate("""() => {
      const read = Blob.prototype.arrayBuffer;
      Blob.prototype.arrayBuffer = async () => {
        Blob.prototype.arrayBuffer = read;
        throw new DOMException("as of a file that is gone", "NotFoundError");
      };
    }""")
    picker = page.locator("input[type=file]").first
    picker.set_input_files({"name": "gone.png", "mimeType": "image/png", "buffer": b"x"})
    page.get_by_text("gone.png cannot be read").wait_for()
    picker.set_input_files({"name": "here.png", "mimeType": "image/png", "buffer": b"x"})
    page.get_by_text("gone.png cannot be read").wait_for(state="hidden")
    page.wait_for_function("window.sent.length === 1")
    assert page.evaluate("window.sent[0].name") == "here.png"


DRAG = """([selector, kind]) => ["dragover", "drop"].map((name) => {
  const dataTransfer = new DataTransfer();
  if (kind === "text") dataTransfer.setData("text/plain", "what is this?");
  else for (const name of kind) dataTransfer.items.add(new File(["x"], name, { type: "image/png" }));
  const event = new DragEvent(name, { dataTransfer, bubbles: true, cancelable: true });
  return document.querySelector(selector).dispatchEvent(event);
})"""


def test_text_is_dragged_into_the_question_and_nowhere_else(page: Any) -> None:
    for field in ("question", "url"):
        assert page.evaluate(DRAG, [f"input[id$={field}]", "text"]) == [True, True]
    assert page.evaluate(DRAG, [".b2c-log", "text"]) == [False, False]
    assert page.evaluate("window.sent") == []


def test_several_dropped_files_are_refused(page: Any) -> None:
    assert page.evaluate(DRAG, [".b2c-log", ["a.png", "b.png"]]) == [False, False]
    page.get_by_text("one picture at a time").wait_for()
    assert page.evaluate("window.sent") == []
    page.evaluate(DRAG, [".b2c-log", ["a.png"]])
    page.wait_for_function("window.sent.length === 1")
    page.get_by_text("one picture at a time").wait_for(state="hidden")
