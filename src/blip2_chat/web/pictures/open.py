"""Pictures on their way in: opened in threads of their own, kept only as what the model looks at."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace

from ...errors import PictureError
from ...images import PictureLimits, PreparedPicture, Preprocess, open_picture, prepare
from ...images.naming import UNNAMED, NamedBytes, url_name
from ..memory import Trimmer
from .address_policy import download
from .workers import Workers

# A picture as the model sees it is 0.6 MB; conversations come back to the same one.
_KEPT = 64
# Hashing less than this takes no longer than handing it to a thread.
_LARGE = 256 * 1024


def _digest(source: str | bytes) -> str:
    return hashlib.sha256(source.encode() if isinstance(source, str) else source).hexdigest()


class Pictures:
    """Opens what requests bring, for all models. Memory stays bounded: three pictures are unpacked at a time."""

    def __init__(self, limits: PictureLimits) -> None:
        self._limits = limits
        self._unpackers = Workers(3, "blip2-chat picture")
        # Apart, so that slow strangers' servers hold up nobody's upload.
        self._fetchers = Workers(8, "blip2-chat fetch")
        self._trimmer = Trimmer()
        # The same model at another precision wants its pictures alike.
        self._kept: OrderedDict[tuple[str, Preprocess], PreparedPicture] = OrderedDict()

    async def open(
        self, source: str | bytes, preprocess: Preprocess, name: str = "", client: str = ""
    ) -> PreparedPicture:
        """An http(s) or `data:` URL, or a file's bytes, as one model wants its pictures; anything else is refused.
        `PictureError`."""
        if isinstance(source, str):
            source = source.strip()
            if source[:7].lower() in ("http://", "https:/"):
                name = name or url_name(source)
                source = await self.fetch(source, client)
            elif source[:5].lower() != "data:":
                # Not repeated: it may be the picture, as bare base64.
                raise PictureError(
                    "the picture's url is no data: URL; send data:image/png;base64,... or the like",
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
                picture = await self._unpackers.run(client, self._unpack, source, preprocess, name)
            finally:
                self._trimmer.later()
            self._kept[key] = picture
        else:  # seen before, in a request that may have called it otherwise
            picture = replace(picture, name=name or UNNAMED)
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return picture

    async def fetch(self, url: str, client: str = "") -> bytes:
        """The bytes behind an http(s) URL, as they are. `PictureError`."""
        return await self._fetchers.run(client, download, url, self._limits)

    def _unpack(self, source: str | bytes, preprocess: Preprocess, name: str) -> PreparedPicture:
        named = NamedBytes(source, name) if isinstance(source, bytes) else source
        return prepare(open_picture(named, limits=self._limits), preprocess)

    def close(self) -> None:
        """Waits for nothing: a download ends at its own deadline."""
        self._unpackers.close()
        self._fetchers.close()
