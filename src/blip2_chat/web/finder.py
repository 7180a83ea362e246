"""The index that a server searches, with the one thread that its model has."""

from __future__ import annotations

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from ..images import Picture, PictureLimits
from ..retriever import AnyPicture
from ..search.index import Hit, Index
from .pictures.workers import Workers

# Seconds for reading candidates again together with the text: the rest stays in the order of the embeddings.
_RERANKING = 8.0
# Pictures up to this size, in pixels of the longer side, are sent without loss.
_LOSSLESS = 512


class _GoneError(Exception):
    """Nobody waits for the results any more."""


@dataclass(frozen=True)
class Query:
    """What to search for: a text, a picture, or an indexed picture with these pixels (a digest)."""

    text: str | None = None
    picture: AnyPicture | None = None
    digest: str | None = None


class Finder:
    """Searches of many clients: one at a time, in the order in which they came."""

    def __init__(self, index: Index, limits: PictureLimits) -> None:
        self.index = index
        # Indexed pictures are files of this machine, whose owner put them into the index.
        self._limits = PictureLimits(max_pixels=limits.max_pixels, pixels_option=limits.pixels_option)
        self._thread = ThreadPoolExecutor(1, "blip2-chat search")
        self._openers = Workers(3, "blip2-chat indexed picture")

    def __len__(self) -> int:
        return len(self.index)

    async def search(self, query: Query, top: int, rerank: int) -> list[Hit]:
        """Raises `GenerationError` for a text that cannot be used, `PictureError` for a picture that is not there."""
        gone = threading.Event()
        try:
            return await asyncio.wrap_future(self._thread.submit(self._search, query, top, rerank, gone))
        finally:
            gone.set()

    def _search(self, query: Query, top: int, rerank: int, gone: threading.Event) -> list[Hit]:
        def going_on(*_: object) -> None:
            if gone.is_set():
                raise _GoneError

        going_on()
        if query.text is not None:
            return self.index.search(
                query.text, top=top, rerank=rerank, within=_RERANKING, on_rerank=going_on
            )
        if query.digest is not None:
            return self.index.search(like=self.index.with_digest(query.digest), top=top)
        return self.index.search(like=query.picture, top=top)

    async def picture(self, digest: str, longest: int, client: str) -> tuple[bytes, str]:
        """The indexed picture with these pixels, at most `size` pixels wide and high -> its file and type.

        What its file holds beside the pixels (where it was taken, and by whom) is not sent. Raises `PictureError` if
        there is none, or its file has changed.
        """
        return await self._openers.run(client, self._drawn, digest, longest)

    def _drawn(self, digest: str, longest: int) -> tuple[bytes, str]:
        hit = self.index.with_digest(digest)
        return _encoded(self.index.picture(hit, self._limits), (hit.width, hit.height), longest)

    def close(self) -> None:
        """Does not wait for searches that have not begun."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._openers.close()


def _encoded(picture: Picture, shape: tuple[int, int], longest: int) -> tuple[bytes, str]:
    """`shape`: the picture's own, of which one that is kept as the model reads it has lost the proportions."""
    factor = min(1.0, longest / max(shape))
    size = (max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor)))
    image = picture.image
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    file = io.BytesIO()
    if max(shape) <= min(_LOSSLESS, longest):
        image.save(file, "PNG", compress_level=3)
        return file.getvalue(), "image/png"
    image.save(file, "JPEG", quality=88)
    return file.getvalue(), "image/jpeg"
