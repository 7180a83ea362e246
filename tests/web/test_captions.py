"""`POST /v1/caption`: JSON and forms, many pictures, a bad one among them."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")

import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from blip2_chat.model import Model
from tests.support.web_server import MakeModel, Running, data_url, picture


@pytest.fixture(scope="module")
def reference(make_model: MakeModel) -> Model:
    return make_model()


def post(server: Running, **what: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/caption", timeout=60, **what)


def files(*contents: bytes, names: tuple[str, ...] = ()) -> list[tuple[str, tuple[str, bytes]]]:
    names = names or tuple(f"{i}.png" for i in range(len(contents)))
    return [("pictures", pair) for pair in zip(names, contents, strict=True)]


def caption(reference: Model, number: int, **settings: Any) -> str:
    return reference.chat(picture(number), max_new_tokens=8, **settings).caption().text


def test_many_pictures_and_a_bad_one(server: Running, reference: Model) -> None:
    contents = [picture(1), b"not a picture", picture(2), b"", picture(1)[:200], picture(3)]
    expected = [caption(reference, 1), None, caption(reference, 2), None, None, caption(reference, 3)]
    form = post(server, files=files(*contents), data={"max_tokens": "8"})
    urls = [data_url(content) for content in contents]
    json = post(server, json={"pictures": urls, "max_tokens": 8})
    for response in (form, json):
        assert response.status_code == 200, response.text
        told = response.json()
        assert [entry["index"] for entry in told["data"]] == list(range(6))
        assert [entry["caption"] for entry in told["data"]] == expected
        for entry in told["data"]:
            assert (entry["error"] is None) == (entry["caption"] is not None)
        assert told["model"] == server.model
        assert told["usage"]["completion_tokens"] > 0
    assert [entry["name"] for entry in form.json()["data"]] == [f"{i}.png" for i in range(6)]
    assert "1.png" in form.json()["data"][1]["error"]["message"]
    assert len({text for text in expected if text}) == 3


def test_first_words_and_settings(server: Running, reference: Model) -> None:
    start = reference.chat(picture(1), max_new_tokens=8).caption("a photo of").text
    for response in (
        post(server, files=files(picture(1)), data={"start": "a photo  of", "max_tokens": "8"}),
        post(server, json={"pictures": [data_url(picture(1))], "start": " a photo of ", "max_tokens": 8}),
    ):
        assert response.json()["data"][0]["caption"] == f"a photo of {start}"
    beams = post(server, files=files(picture(1)), data={"num_beams": "3", "max_tokens": "8"})
    assert beams.json()["data"][0]["caption"] == caption(reference, 1, num_beams=3)
    drawn = [
        post(
            server, files=files(picture(1)), data={"temperature": "1.5", "seed": "3", "stop": ["zz", "yy"]}
        ).json()
        for _ in range(2)
    ]
    assert drawn[0]["data"] == drawn[1]["data"]


def test_captions_carry_advice_about_the_picture(server: Running) -> None:
    entry = post(server, files=files(picture(1, size=40))).json()["data"][0]
    assert [one["kind"] for one in entry["advice"]] == ["tiny"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"json": {"pictures": []}}, 400),
        ({"json": {"pictures": [data_url(b"junk")]}}, 400),
        ({"json": {"pictures": "one"}}, 400),
        ({"json": {"pictures": [data_url(b"x")] * 17}}, 400),
        ({"json": {"pictures": [data_url(picture(1))], "start": "word " * 190}}, 400),
        ({"json": {"pictures": [data_url(picture(1))], "max_tokens": "8"}}, 400),
        ({"json": {"pictures": [data_url(picture(1))], "model": "other"}}, 404),
        ({"files": files(*[picture(1)] * 17)}, 400),
        ({"files": [("image", ("a.png", picture(1)))]}, 400),
        ({"files": files(picture(1)), "data": {"max_tokens": "many"}}, 400),
        ({"files": files(picture(1)), "data": {"model": "other"}}, 404),
        ({"data": {"pictures": "one"}}, 415),
        ({"content": b"--x\r\nbroken", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"content": picture(1), "headers": {"Content-Type": "image/png"}}, 415),
        ({}, 415),
    ],
)
def test_what_is_refused(server: Running, request_: dict[str, Any], status: int) -> None:
    response = post(server, **request_)
    assert response.status_code == status, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_files_name_stays_with_its_request(server: Running) -> None:
    """Somebody else may send the same picture."""
    post(server, files=files(picture(31)))
    response = post(server, json={"pictures": [data_url(picture(31))]})
    assert response.json()["data"][0]["name"] == "picture"


def test_files_never_touch_the_disk(server: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Five pictures of more than a megabyte each, which Starlette's own parser would write to a temporary file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    large = [picture(number) + b"\0" * 2_000_000 for number in range(5)]
    response = post(server, files=files(*large))
    assert [entry["error"] for entry in response.json()["data"]] == [None] * 5
