"""The page takes the address of a picture, where the server may fetch it."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, expect

from blip2_chat.web.pictures.address_policy import picture_limits
from blip2_chat.web.settings import Settings
from tests.support.web_browser import Visit, answers, idle
from tests.support.web_server import MakeModel, Running, picture, post, running


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """Another server, with a picture and a page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = picture(1) if self.path.endswith(".png") else b"<html>secret</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def open_server(make_model: MakeModel) -> Iterator[Running]:
    """127.0.0.1 counts as public here."""
    limits = picture_limits(Settings(allow_urls=True), allowed=lambda address: address == "127.0.0.1")
    with running(make_model(), replace(limits, timeout_seconds=60.0), allow_urls=True) as server:
        yield server


def test_an_address_is_typed_and_opened(browser: Browser, open_server: Running, elsewhere: str) -> None:
    visit = Visit(browser, open_server.url)
    visit.page.get_by_label("Picture URL").fill(f"{elsewhere}/photos/my%20cat.png")
    visit.page.get_by_role("button", name="Open", exact=True).click()
    expect(answers(visit.page)).to_have_count(1)
    idle(visit.page)
    assert visit.page.locator("#picture-name").text_content() == "my cat.png"
    assert not visit.problems
    # A blob has no host.
    assert visit.hosts - {""} == {open_server.url.partition("//")[2].rstrip("/")}, (
        "the server fetches, not the page"
    )
    visit.context.close()


def test_a_percent_sign_that_stands_for_itself(
    browser: Browser, open_server: Running, elsewhere: str
) -> None:
    visit = Visit(browser, open_server.url)
    visit.page.get_by_label("Picture URL").fill(f"{elsewhere}/100%.png")
    visit.page.get_by_role("button", name="Open", exact=True).click()
    expect(answers(visit.page)).to_have_count(1)
    idle(visit.page)
    assert visit.page.locator("#picture-name").text_content() == "100%.png"
    visit.context.close()


def test_a_file_that_is_not_a_picture_is_reported(
    browser: Browser, open_server: Running, elsewhere: str
) -> None:
    visit = Visit(browser, open_server.url)
    visit.page.get_by_label("Picture URL").fill(f"{elsewhere}/page.html")
    visit.page.get_by_role("button", name="Open", exact=True).click()
    expect(visit.page.locator("#alert-text")).to_contain_text("is not a picture")
    visit.context.close()


def test_only_pictures_are_accepted(open_server: Running, elsewhere: str) -> None:
    refused = post(f"{open_server.url}/v1/picture", json={"url": f"{elsewhere}/page.html"})
    assert refused.status_code == 400 and "secret" not in refused.text
    assert post(f"{open_server.url}/v1/picture", json={"url": "file:///etc/passwd"}).status_code == 400
    found = post(f"{open_server.url}/v1/picture", json={"url": f"{elsewhere}/a.png"})
    assert found.content == picture(1)


def test_without_allow_urls_there_is_no_field(browser: Browser, server: Running) -> None:
    visit = Visit(browser, server.url)
    expect(visit.page.get_by_label("Picture URL")).to_be_hidden()
    visit.context.close()
    assert post(f"{server.url}/v1/picture", json={"url": "https://example.org/a.png"}).status_code == 400
