"""Opening the pictures of requests in threads; only the model's input is kept."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from dataclasses import dataclass, replace

from ...engines.engine import Floats
from ...errors import PictureError
from ...images import Advice, PictureLimits, Preprocess, advise, open_picture, to_pixels
from ...images.naming import UNNAMED, url_name
from ..memory import Trimmer
from .address_policy import download
from .workers import Workers

# The input of a picture is 0.6 MB, and conversations ask about the same picture again.
_KEPT = 64
# Hashing less than this takes no longer than passing it to a thread.
_LARGE = 256 * 1024


@dataclass(frozen=True)
class Seen:
    """A picture reduced to what answers need: pixels [1, 3, H, W], the digest of the original, and advice."""

    name: str
    digest: str
    pixels: Floats
    advice: tuple[Advice, ...]


class _Named(io.BytesIO):
    """An uploaded file with its name, for messages."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


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
        self._kept: OrderedDict[tuple[str, Preprocess], Seen] = OrderedDict()

    async def open(
        self, source: str | bytes, preprocess: Preprocess, name: str = "", client: str = ""
    ) -> Seen:
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
                    "the picture's url is no data: URL; send data:image/png;base64,... or the like"
                )
        if len(source) < _LARGE:
            content = _digest(source)
        else:
            content = await self._unpackers.run(client, _digest, source)
        key = (content, preprocess)
        seen = self._kept.get(key)
        if seen is None:
            try:
                seen = await self._unpackers.run(client, self._unpack, source, preprocess, name)
            finally:
                self._trimmer.later()
            self._kept[key] = seen
        else:  # cached from a request that may have used another name
            seen = replace(seen, name=name or UNNAMED)
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return seen

    async def fetch(self, url: str, client: str = "") -> bytes:
        """The unchanged bytes of an http(s) URL. Raises `PictureError`."""
        return await self._fetchers.run(client, download, url, self._limits)

    def _unpack(self, source: str | bytes, preprocess: Preprocess, name: str) -> Seen:
        picture = open_picture(
            _Named(source, name) if isinstance(source, bytes) else source, limits=self._limits
        )
        return Seen(
            picture.name,
            picture.digest,
            to_pixels(picture, preprocess),
            tuple(advise(picture)),
        )

    def close(self) -> None:
        """Does not wait: downloads end at their own deadline."""
        self._unpackers.close()
        self._fetchers.close()
