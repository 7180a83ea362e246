"""The page shrinks large pictures before it uploads them."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import base64
import io
import json

from PIL import Image
from playwright.sync_api import Browser

from tests.support.web_browser import Visit, idle
from tests.support.web_server import Running, picture


def uploaded(browser: Browser, server: Running, name: str, kind: str, content: bytes) -> bytes:
    visit = Visit(browser, server.url)
    with visit.page.expect_request("**/v1/chat/completions") as asked:
        visit.page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": content})
    idle(visit.page)
    assert not visit.problems
    assert visit.page.locator("#picture-name").text_content() == name
    visit.context.close()
    (message,) = json.loads(asked.value.post_data or "")["messages"]
    return base64.b64decode(message["content"][0]["image_url"]["url"].partition(",")[2])


def test_a_large_photo_is_shrunk_and_upright(browser: Browser, server: Running) -> None:
    """12,000 x 4,000 pixels, over the server's limit; its orientation says: turn it clockwise."""
    photo = Image.new("RGB", (12_000, 4_000), "red")
    photo.paste("blue", (6_000, 0, 12_000, 4_000))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    photo.save(file, "JPEG", exif=exif)
    sent = Image.open(io.BytesIO(uploaded(browser, server, "phone.jpg", "image/jpeg", file.getvalue())))
    assert sent.height == 2048 and abs(sent.width - 683) <= 1
    assert 0x0112 not in sent.getexif()
    red, _, blue = sent.convert("RGB").getpixel((340, 300))  # type: ignore[misc]
    assert red > 200 and blue < 50  # the left half is above
    red, _, blue = sent.convert("RGB").getpixel((340, 1700))  # type: ignore[misc]
    assert red < 50 and blue > 200


def test_a_small_picture_is_sent_as_it_is(browser: Browser, server: Running) -> None:
    assert uploaded(browser, server, "a.png", "image/png", picture(1)) == picture(1)
