"""A visit to the page in Chromium, driven by Playwright, and what tests do there."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, expect

from tests.support.waiting import wait_until

# A busy machine's browser takes its time.
expect.set_options(timeout=30_000)


class Visit:
    """A page, what it said to the console, and whom it asked for anything."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.hosts: set[str] = set()
        self.page.on(
            "console", lambda told: told.type in ("error", "warning") and self.problems.append(told.text)
        )
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.context.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.goto(url)
        expect(self.page.locator("body[data-ready]")).to_be_attached()


def ask(page: Page, question: str) -> None:
    page.get_by_label("Your question about the picture").fill(question)
    page.keyboard.press("Enter")


def answers(page: Page) -> Any:
    return page.locator(".answer")


def idle(page: Page) -> None:
    """No picture is on its way, and nothing is being written."""
    expect(page.locator("body.preparing")).to_have_count(0)
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator(".busy, .waiting")).to_have_count(0)


# The session's pictures, each with its turns' texts, as the browser's store has them.
_STORED = """() => new Promise((resolve) => {
  const database = indexedDB.open("blip2-chat", 1);
  database.onsuccess = () => {
    const sessions = database.result.transaction("sessions").objectStore("sessions");
    const found = sessions.get(sessionStorage.getItem("blip2-chat session"));
    found.onsuccess = () => {
      database.result.close();
      resolve(found.result?.content.pictures.map(({ turns }) => turns.map(({ text }) => text)) ?? []);
    };
  };
})"""


def stored(page: Page) -> list[list[str]]:
    """The text of each turn of each picture that a reload would find now."""
    found: list[list[str]] = page.evaluate(_STORED)
    return found


def kept(page: Page) -> None:
    """What stands there of the picture that is shown would be there after a reload: it is stored a moment later."""
    shown = [said(page, place) for place in range(answers(page).count())]
    tabs = page.locator("#tabs button").count()
    assert wait_until(lambda: len(stored(page)) == tabs and shown in stored(page))


def said(page: Page, place: int) -> str:
    """The text of an answer, without the label that only listeners hear."""
    return re.sub(r"^(Caption|Answer): ", "", answers(page).nth(place).text_content() or "")
