"""The report in a real browser: quick with ten thousand pictures, and nothing in it is run or fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blip2_chat.batch.outputs.report import report
from blip2_chat.batch.outputs.writers import Shape, write
from blip2_chat.batch.result import Result
from tests.support.batch import digest, make_pictures

NASTY = '</script><script>document.title="owned"</script><!-- & <b>'


def test_ten_thousand_pictures_in_a_browser(browser: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    (picture,) = make_pictures(tmp_path / "photos", 1)
    same = digest(picture)
    made = [
        Result(
            str(picture),
            (f"a dog and {at} cats" if at % 10 == 0 else f"{at} trees",),
            {},
            -at / 1e4,
            digest=same,
        )
        for at in range(9_990)
    ]
    made += [Result(f"bad{at}.png", error=f"bad{at}.png is empty") for at in range(10)]
    made[20] = Result(str(picture), (NASTY,), {}, -5, digest=same)
    write(str(tmp_path / "c.jsonl"), made, Shape(1, [], {}))
    report(str(tmp_path / "c.jsonl"), tmp_path / "c.html", title="Ten thousand")
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    noise: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on(
        "request",
        lambda request: noise.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )
    page.goto((tmp_path / "c.html").as_uri())
    cards = page.locator(".card")
    assert 0 < cards.count() < 60, "only what is in view exists"
    assert cards.first.locator(".caption").inner_text() == "a dog and 0 cats"
    assert page.evaluate("document.querySelector('.card img').decode().then(() => true)")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_function(
        "[...document.querySelectorAll('.card')].some(c => c.textContent.includes('bad9.png'))"
    )
    assert cards.count() < 60
    page.fill("#search", "DOG 120")
    expect(page.locator("#facts")).to_contain_text("11 of 10,000 pictures")
    assert cards.first.locator(".caption").inner_text() == "a dog and 120 cats"
    assert page.locator("mark").first.inner_text() == "dog"
    page.fill("#search", "")
    page.select_option("#order", "worst")
    expect(cards.first.locator(".caption")).to_contain_text("owned")
    assert page.title() == "Ten thousand", "a caption is text"
    page.click("text=Failed 10")
    assert cards.count() == 10 and "is empty" in cards.first.inner_text()
    cards.first.click()
    assert page.locator("dialog").is_visible() and "bad0.png" in page.locator("dialog dl").inner_text()
    page.keyboard.press("ArrowRight")
    assert "bad1.png" in page.locator("dialog dl").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert [one for one in noise if not one.startswith(("file:", "data:"))] == [], (
        "nothing is asked of a network"
    )
    page.close()


@pytest.mark.parametrize("width", [1200, 390])
def test_cards_show_the_answers(browser: Any, tmp_path: Path, width: int) -> None:
    (picture,) = make_pictures(tmp_path / "photos", 1)
    question = "what is the long question about that would fill a whole card by itself?"
    answers = {question: "a short answer", "and more?": "quite a few words about it " * 9}
    made = [Result(str(picture), (), answers, -1, digest=digest(picture))]
    write(
        str(tmp_path / "c.jsonl"),
        [*made, Result("x.png", (), answers, -1, digest="x")],
        Shape(0, answers, {}),
    )
    report(str(tmp_path / "c.jsonl"), tmp_path / "c.html")
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((tmp_path / "c.html").as_uri())
    card = page.locator(".card").first
    box = card.bounding_box()
    for said in card.locator(".said").all():
        inside = said.bounding_box()
        assert inside["height"] > 15 and inside["y"] + inside["height"] <= box["y"] + box["height"]
        assert inside["x"] >= box["x"] and inside["x"] + inside["width"] <= box["x"] + box["width"]
    short = card.locator(".said").first
    assert short.inner_text() == "a short answer"
    assert short.evaluate("it => it.scrollWidth <= it.clientWidth && it.scrollHeight <= it.clientHeight")
    assert "picture not found" in page.locator(".card").nth(1).inner_text()
    page.close()


def test_a_picture_leads_to_those_that_are_like_it(browser: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    pictures = make_pictures(tmp_path / "photos", 4)
    digests = [digest(path) for path in pictures]
    made = [
        Result(str(path), (word,), {}, -1, digest=digest(path))
        for path, word in zip(pictures, ("xylophone", "yacht", f"zebra {NASTY}", "walrus"), strict=True)
    ]
    write(str(tmp_path / "c.jsonl"), made, Shape(1, [], {}))
    near = {digests[0]: [digests[2], digests[1]], digests[2]: [digests[0]]}
    report(str(tmp_path / "c.jsonl"), tmp_path / "c.html", title="Alike", alike=lambda asked: near)
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.goto((tmp_path / "c.html").as_uri())
    page.fill("#search", "xylophone")
    expect(page.locator(".card")).to_have_count(1)
    page.locator(".card").click()
    shown = page.locator("dialog .near button")
    expect(shown).to_have_count(2)
    assert shown.first.locator("img").evaluate("it => it.decode().then(() => it.naturalWidth > 0)")
    shown.first.click()
    expect(page.locator("dialog p.big")).to_contain_text("zebra </script>")
    assert page.title() == "Alike", "a caption is text"
    # It is none of those that the search found, and leads back.
    page.keyboard.press("ArrowRight")
    expect(page.locator("dialog p.big")).to_contain_text("zebra")
    shown.first.click()
    expect(page.locator("dialog p.big")).to_contain_text("xylophone")
    page.keyboard.press("Escape")
    page.fill("#search", "walrus")
    expect(page.locator(".card .caption")).to_contain_text("walrus")
    page.locator(".card").click()
    expect(page.locator("dialog p.big")).to_contain_text("walrus")
    assert shown.count() == 0 and "More like this" not in page.locator("dialog").inner_text()
    page.close()
