"""`POST /v1/search`: the server's index, and nothing but its pictures."""

from __future__ import annotations

from tests.support.extras import require

require("test-web")
require("test-search")

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip2_chat.search.index import Index
from tests.support.searched import index_of_pictures
from tests.support.web_server import MakeModel, Running, data_url, get, picture, post, running

TEXT = "a woman and her dog"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with index_of_pictures(tmp_path_factory.mktemp("searched")) as index:
        yield index
        index.retriever.close()


@pytest.fixture(scope="module")
def searched(make_model: MakeModel, index: Index) -> Iterator[Running]:
    with running(make_model(), index=index) as server:
        yield server


def test_the_results_are_those_of_the_index(searched: Running, index: Index) -> None:
    expected = index.search(TEXT, top=5)
    found = post(f"{searched.url}/v1/search", json={"text": TEXT, "top": 5}).json()
    assert found["object"] == "list" and found["model"] == index.retriever.name
    assert [one["id"] for one in found["data"]] == [hit.digest for hit in expected]
    for one, hit in zip(found["data"], expected, strict=True):
        assert one["probability"] == pytest.approx(hit.probability, abs=1e-5)
        assert one["similarity"] == pytest.approx(hit.similarity, abs=1e-5)
        assert one["name"] == Path(hit.path).name and (one["width"], one["height"]) == (hit.width, hit.height)
    assert "private" not in json.dumps(found), "it tells where pictures lie on its machine"
    plain = post(f"{searched.url}/v1/search", json={"text": TEXT, "top": 5, "rerank": 0}).json()["data"]
    assert [one["id"] for one in plain] == [hit.digest for hit in index.search(TEXT, top=5, rerank=0)]
    assert all(one["probability"] is None for one in plain)


def test_many_at_once_get_what_each_gets_alone(searched: Running) -> None:
    texts = [f"{number} dogs" for number in range(8)]
    with ThreadPoolExecutor(8) as clients:
        together = list(
            clients.map(lambda text: post(f"{searched.url}/v1/search", json={"text": text}).json(), texts)
        )
    assert together == [post(f"{searched.url}/v1/search", json={"text": text}).json() for text in texts]


def test_like_a_result_or_an_uploaded_picture(searched: Running, index: Index) -> None:
    first = post(f"{searched.url}/v1/search", json={"text": TEXT}).json()["data"][0]
    like = post(f"{searched.url}/v1/search", json={"like": first["id"]}).json()["data"]
    assert like[0]["id"] == first["id"] and like[0]["similarity"] == pytest.approx(1, abs=2e-3)
    mine = post(f"{searched.url}/v1/search", json={"picture": data_url(picture(3))}).json()["data"]
    assert mine[0]["name"] == "p03.png" and mine[0]["similarity"] == pytest.approx(1, abs=2e-3)


def test_pictures_of_the_index_come_as_they_are_or_smaller(searched: Running, index: Index) -> None:
    for hit in index.search(TEXT, top=12, rerank=0):
        original = Image.open(hit.path).convert("RGB")
        told = post(f"{searched.url}/v1/search/picture", json={"id": hit.digest})
        assert told.headers["content-type"] == ("image/jpeg" if original.width > 512 else "image/png")
        shown = Image.open(io.BytesIO(told.content))
        assert shown.size == original.size
        if original.width <= 512:
            np.testing.assert_array_equal(np.asarray(shown), np.asarray(original))
        small = Image.open(
            io.BytesIO(post(f"{searched.url}/v1/search/picture", json={"id": hit.digest, "size": 32}).content)
        )
        assert max(small.size) == 32


def test_nothing_but_the_index_is_served(searched: Running, index: Index, tmp_path: Path) -> None:
    (hit, *_) = index.search(TEXT, top=1)
    for wrong, status in (
        ("0" * 64, 404),
        (hit.path, 400),
        (f"../{hit.digest}", 400),
        (f"{hit.digest}\n", 400),
        (f"{'0' * 63}'", 400),
    ):
        told = post(f"{searched.url}/v1/search/picture", json={"id": wrong})
        assert told.status_code == status and "error" in told.json()
    assert (
        post(f"{searched.url}/v1/search", json={"like": "0" * 64}).json()["error"]["code"]
        == "picture_not_found"
    )
    path = Path(hit.path)
    kept = path.read_bytes()
    try:
        path.write_bytes(picture(99))  # what lies there now was never put into the index
        told = post(f"{searched.url}/v1/search/picture", json={"id": hit.digest})
        assert told.status_code == 404 and "has changed since" in told.json()["error"]["message"]
        path.unlink()
        told = post(f"{searched.url}/v1/search/picture", json={"id": hit.digest})
        assert told.status_code == 404 and "private" not in told.text
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text"),
        ({"text": TEXT, "like": "0" * 64}, "like"),
        ({"text": "  "}, "text"),
        ({"text": TEXT, "top": 0}, "top"),
        ({"text": TEXT, "rerank": -1}, "rerank"),
        ({"picture": "data:image/png;base64,AAAA"}, "picture"),
        ({"picture": "/etc/passwd"}, "picture"),
    ],
)
def test_bad_requests_are_told(searched: Running, body: dict[str, object], param: str) -> None:
    told = post(f"{searched.url}/v1/search", json=body)
    assert told.status_code == 400 and told.json()["error"]["param"] == param


def test_the_key_guards_searches_and_pictures(make_model: MakeModel, index: Index) -> None:
    (hit,) = index.search(TEXT, top=1, rerank=0)
    with running(make_model(), index=index, api_key="secret") as server:
        for path, body in (("search", {"text": TEXT}), ("search/picture", {"id": hit.digest})):
            assert post(f"{server.url}/v1/{path}", json=body).status_code == 401
            key = {"Authorization": "Bearer secret"}
            assert post(f"{server.url}/v1/{path}", json=body, headers=key).status_code == 200


def test_the_models_tell_whether_there_is_an_index(searched: Running, server: Running) -> None:
    assert get(f"{searched.url}/v1/models").json()["data"][0]["blip2_chat"]["indexed_pictures"] == 12
    assert get(f"{server.url}/v1/models").json()["data"][0]["blip2_chat"]["indexed_pictures"] is None
    assert post(f"{server.url}/v1/search", json={"text": TEXT}).status_code == 404
    assert "/v1/search" not in get(f"{server.url}/openapi.json").json()["paths"]
    assert {"/v1/search", "/v1/search/picture"} <= set(get(f"{searched.url}/openapi.json").json()["paths"])
