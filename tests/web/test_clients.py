"""The three ways in, as docs/serve.md has them, against the embedded model: browser, curl, openai client."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

import blip2_chat
from tests.support.web_browser import Visit, answers, ask, idle, kept, said
from tests.support.web_server import Running, running

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "src" / "blip2_chat" / "demo" / "samples"
DOCUMENT = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def embedded() -> Iterator[Running]:
    model = blip2_chat.load()
    with running(model) as server:
        yield server
    model.close()


def blocks(language: str, server: Running) -> list[str]:
    """The document's examples, at this server's address."""
    found = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    return [code.replace("http://127.0.0.1:8000", server.url) for code in found]


def sample(name: str) -> dict[str, object]:
    listed = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    return next(one for one in listed if one["picture"] == name)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(embedded: Running) -> None:
    captions, question = (
        json.loads(
            subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
        )
        for code in blocks("bash", embedded)
    )
    assert captions["data"][0]["caption"] == sample("farm.png")["caption"]
    assert question["choices"][0]["message"]["content"] == "a dog"


def test_the_openai_client(embedded: Running) -> None:
    (code,) = blocks("python", embedded)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=120)
    assert run.stdout.decode() == "a dog", run.stderr.decode()


def test_a_conversation_in_the_browser(browser: Browser, embedded: Running) -> None:
    """A sample picture, its caption, two questions with right answers, an unreadable file, a reload."""
    visit = Visit(browser, embedded.url)
    page = visit.page
    expect(page.get_by_text("never seen a photograph")).to_be_visible()
    page.get_by_role("button", name="Sample: dog-and-apple.png").click()
    expect(answers(page)).to_have_count(1)
    idle(page)
    assert said(page, 0) == sample("dog-and-apple.png")["caption"]
    for count, (question, answer) in enumerate(
        [("what is on the left?", "a dog"), ("and what is right of it?", "an apple")], 2
    ):
        ask(page, question)
        expect(answers(page)).to_have_count(count)
        idle(page)
        assert said(page, count - 1) == answer
    page.set_input_files(
        "#file", [{"name": "notes.txt", "mimeType": "text/plain", "buffer": b"not a picture"}]
    )
    expect(page.get_by_role("alert")).to_contain_text("notes.txt cannot be opened")
    kept(page)
    page.reload()
    expect(page.locator("body[data-ready]")).to_be_attached()
    expect(answers(page)).to_have_count(3)
    assert said(page, 1) == "a dog"
    assert visit.problems == [
        "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    ]
    visit.context.close()


def test_suggested_questions_about_a_sample(browser: Browser, embedded: Running) -> None:
    """They are asked with a press, go away once they are asked, and survive a reload."""
    visit = Visit(browser, embedded.url)
    page = visit.page
    asked = sample("farm.png")["questions"]
    assert isinstance(asked, list)
    questions = [one["question"] for one in asked]
    page.get_by_role("button", name="Sample: farm.png").click()
    offered = page.get_by_role("group", name="Questions to try").get_by_role("button")
    expect(offered).to_have_text(questions)
    idle(page)
    offered.nth(1).click()
    expect(answers(page)).to_have_count(2)
    idle(page)
    assert said(page, 1) == asked[1]["answer"]
    kept(page)
    page.reload()
    expect(offered).to_have_text([questions[0], *questions[2:]])
    assert visit.problems == []
    visit.context.close()
