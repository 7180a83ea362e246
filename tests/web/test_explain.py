"""`explain` of the API, and the page's button under an answer: what the answer depends on in the picture."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from blip2_chat.model import Model
from tests.support.web_browser import Visit, answers, ask, idle
from tests.support.web_server import MakeModel, Running, asking, data_url, picture, post

QUESTION = "what is on the left?"


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> Model:
    """The server's, to ask without it."""
    return make_model()


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": asking(QUESTION, data_url(picture(1))), "max_tokens": 8, **fields}


def alpha(attribution: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(attribution.partition(",")[2]))) as image:
        return np.asarray(image.getchannel("A"), np.float32) / 255


def test_the_answer_is_explained_as_by_the_library(server: Running, model: Model) -> None:
    url = f"{server.url}/v1/chat/completions"
    whole = post(url, json=body(explain=True)).json()
    answer = model.ask(picture(1), QUESTION, max_new_tokens=8)
    assert whole["choices"][0]["message"]["content"] == answer
    found = alpha(whole["blip2_chat"]["attribution"])
    expected = model.attribution(picture(1), QUESTION, answer)
    assert found.shape == expected.shape, "no larger than the limit: of the picture's size"
    assert expected.max() > 0.9
    np.testing.assert_allclose(found, expected, atol=0.02)
    streamed = post(url, json=body(explain=True, stream=True)).text
    chunks = [json.loads(line[6:]) for line in streamed.split("\n\n") if line.startswith("data: {")]
    told = [one["blip2_chat"]["attribution"] for one in chunks if "attribution" in one.get("blip2_chat", {})]
    assert told == [whole["blip2_chat"]["attribution"]] and chunks[-1]["choices"] == []
    assert post(url, json=body()).json()["blip2_chat"].get("attribution") is None


def test_a_given_answer_is_explained_and_not_written(server: Running, model: Model) -> None:
    url = f"{server.url}/v1/chat/completions"
    told = post(url, json=body(explain="two cats")).json()
    assert told["choices"][0]["message"]["content"] == "two cats"
    expected = model.attribution(picture(1), QUESTION, "two cats")
    np.testing.assert_allclose(alpha(told["blip2_chat"]["attribution"]), expected, atol=0.02)
    for wrong in ({"explain": "two cats", "stream": True}, {"explain": ""}, {"explain": 3}):
        assert post(url, json=body(**wrong)).status_code == 400


def test_the_page_shows_it_under_an_answer(browser: Browser, server: Running) -> None:
    visit = Visit(browser, server.url)
    page = visit.page
    file = {"name": "photo.png", "mimeType": "image/png", "buffer": picture(1)}
    page.set_input_files("#file", file)  # type: ignore[arg-type]
    idle(page)
    ask(page, QUESTION)
    expect(answers(page)).to_have_count(2)
    idle(page)
    layer = page.locator("#where")
    expect(layer).to_be_hidden()
    button = page.get_by_role("button", name="Show in the picture what the answer depends on").last
    button.click()
    expect(layer).to_be_visible()
    expect(button).to_have_attribute("aria-pressed", "true")
    # It lies over the picture exactly.
    assert layer.bounding_box() == page.locator("#picture").bounding_box()
    button.click()
    expect(layer).to_be_hidden()
    assert visit.problems == []
    visit.context.close()
