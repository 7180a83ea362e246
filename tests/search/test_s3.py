"""An index in a bucket: the same commands, with a URL in place of a folder."""

from __future__ import annotations

from tests.support.extras import imported, require

require("test-search")

from collections.abc import Iterator
from pathlib import Path

import pytest

from blip2_chat import Index
from blip2_chat.batch.errors import RunError
from blip2_chat.retriever import Retriever
from blip2_chat.search.indexing import IndexOptions
from tests.support.batch import make_pictures
from tests.support.search import contents, indexed


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server on this machine."""
    server = imported("moto.server", "test-ray").ThreadedMotoServer(port=0, verbose=False)
    boto3 = imported("boto3", "test-ray")
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", url),
        ):
            monkeypatch.setenv(name, value)
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="pictures")
        yield "s3://pictures"
    finally:
        server.stop()


def test_an_index_in_a_bucket(bucket: str, retriever: Retriever, photos: Path, tmp_path: Path) -> None:
    out = f"{bucket}/photos.index"
    with pytest.raises(RunError, match="there is no index"):
        Index.open(out, retriever)
    assert indexed(retriever, IndexOptions(out, (photos,))).done == 12
    (new,) = make_pictures(photos, 1, seed=5, first=40)
    (photos / "p0000.png").unlink()
    summary = indexed(retriever, IndexOptions(out))
    assert (summary.rows, summary.done, summary.vanished) == (12, 1, 1)
    local = str(tmp_path / "x.index")
    indexed(retriever, IndexOptions(local, (photos,)))
    assert contents(out).keys() == contents(local).keys() and str(new) in contents(out)
    found = Index.open(out, retriever).search("the beach", top=12)
    assert found == Index.open(local, retriever).search("the beach", top=12)
    assert not Path("s3:").exists()
