"""A server's index of pictures, for the tests of the API and of the page."""

from __future__ import annotations

from pathlib import Path

import blip2_chat
from blip2_chat.search.index import Index
from blip2_chat.search.indexing import IndexOptions
from tests.support.checkpoints import make_retriever
from tests.support.search import indexed
from tests.support.web_server import picture


def index_of_pictures(folder: Path, count: int = 12) -> Index:
    """Pictures that are no other's, one of them large, indexed with a random checkpoint."""
    photos = folder / "private" / "photos"
    photos.mkdir(parents=True)
    for number in range(count):
        (photos / f"p{number:02}.png").write_bytes(picture(number, 640 if number == 0 else 64))
    retriever = blip2_chat.load_retriever(make_retriever(folder / "retriever", std=0.3), threads=1)
    out = str(folder / "photos.index")
    indexed(retriever, IndexOptions(out, (photos,)))
    return Index.open(out, retriever)
