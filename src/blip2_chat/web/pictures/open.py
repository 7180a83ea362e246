"""Opening the pictures of requests in threads; only the model's input is kept."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace

from ...errors import PictureError
from ...images import PictureLimits, PreparedPicture, Preprocess, open_picture, prepare
from ...images.naming import UNNAMED, NamedBytes, url_name
from ...system.recent import Recent
from ..memory import Trimmer
from .address_policy import download
from .workers import Workers

# The input of a picture is 0.6 MB, and conversations ask about the same picture again.
_KEPT = 64
# Hashing less than this takes no longer than passing it to a thread.
_LARGE = 256 * 1024


def _digest(source: str | bytes) -> str:
    return hashlib.sha256(source.encode() if isinstance(source, str) else source).hexdigest()


class Pictures:
    """Opens the pictures of requests, for all models. Three pictures are decoded at a time, which bounds
    memory."""

    def __init__(self, limits: PictureLimits) -> None:
        self._limits = limits
        self._unpackers = Workers(3, "blip2-chat picture")
        # Separate threads, so that slow servers do not delay uploads.
        self._fetchers = Workers(8, "blip2-chat fetch")
        self._trimmer = Trimmer()
        # The same model at another precision has the same preprocessing.
        self._kept: Recent[tuple[str, Preprocess], PreparedPicture] = Recent(_KEPT)

    async def open(
        self, source: str | bytes, preprocess: Preprocess, name: str = "", client: str = ""
    ) -> PreparedPicture:
        """Opens an http(s) or `data:` URL, or the bytes of a file, for a model; refuses anything else. Raises
        `PictureError`."""
        if isinstance(source, str):
            source = source.strip()
            if source[:7].lower() in ("http://", "https:/"):
                name = name or url_name(source)
                source = await self.fetch(source, client)
            elif source[:5].lower() != "data:":
                # Not quoted in the message: it may be the picture itself, as bare base64.
                raise PictureError(
                    "the picture's url is not a data: URL; send data:image/png;base64,... or the like",
                    fault="refused",
                )
        if len(source) < _LARGE:
            content = _digest(source)
        else:
            content = await self._unpackers.run(client, _digest, source)
        key = (content, preprocess)
        picture = self._kept.get(key)
        if picture is None:
            try:
                picture = await self._unpack(source, preprocess, name, client)
            finally:
                self._trimmer.later()
            self._kept.put(key, picture)
        else:  # cached from a request that may have used another name
            picture = replace(picture, name=name or UNNAMED)
        return picture

    async def fetch(self, url: str, client: str = "") -> bytes:
        """The unchanged bytes of an http(s) URL. Raises `PictureError`."""
        return await self._fetchers.run(client, download, url, self._limits)

    async def _unpack(
        self, source: str | bytes, preprocess: Preprocess, name: str, client: str
    ) -> PreparedPicture:
        """Decodes in a thread; if the client disconnects, also decoding that has begun ends."""
        abandoned = threading.Event()
        try:
            return await self._unpackers.run(client, self._decode, source, preprocess, name, abandoned.is_set)
        except asyncio.CancelledError:
            abandoned.set()
            raise

    def _decode(
        self, source: str | bytes, preprocess: Preprocess, name: str, is_abandoned: Callable[[], bool]
    ) -> PreparedPicture:
        named = NamedBytes(source, name) if isinstance(source, bytes) else source
        picture = open_picture(named, limits=self._limits, is_abandoned=is_abandoned)
        return prepare(picture, preprocess)

    def close(self) -> None:
        """Does not wait: downloads end at their own deadline."""
        self._unpackers.close()
        self._fetchers.close()
