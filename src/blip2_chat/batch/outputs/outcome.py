"""Results together with what some output formats need: the picture itself, or its path in a folder."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image
from typing_extensions import Self

from ...errors import PictureError
from ...images import PictureLimits, open_picture
from ...images.fetch import fetch
from ...images.kinds import picture_endings
from ...images.naming import NamedBytes
from ..items import Item, showable, stamped
from ..journal import Journal, Row
from ..result import Result
from ..storage import is_remote, is_web, reading

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Outcomes of these names are what `datasets` reads as `imagefolder`, beside the pictures."""


@dataclass(frozen=True)
class _Extended(Result):
    @classmethod
    def of(cls, result: Result, **more: Any) -> Self:
        return cls(**{one.name: getattr(result, one.name) for one in fields(Result)}, **more)


@dataclass(frozen=True)
class FolderResult(_Extended):
    """file_name: the picture's path relative to the folder of the output file, with slashes."""

    file_name: str | None = None


@dataclass(frozen=True)
class PicturedResult(_Extended):
    """picture: the encoded file; None if it failed or cannot be read again. ending: ".jpg" ..."""

    picture: bytes | None = None
    ending: str = ""


def is_metadata(address: str) -> bool:
    return os.path.basename(address).lower() in METADATA


def in_folder(journal: Journal, folder: str) -> Iterator[FolderResult]:
    """The results of readable pictures, because `imagefolder` stops at unreadable ones."""
    for row in journal.rows():
        if row.result.error is None:
            name = (
                None if row.file is None else showable(os.path.relpath(row.file, folder)).replace(os.sep, "/")
            )
            yield FolderResult.of(row.result, file_name=name)


class Pictured:
    """Iterate once for the results of a run with their pictures, which are read again; those that are not
    files, in a second pass over the sources. `missing` counts pictures that cannot be read or have changed."""

    def __init__(self, journal: Journal, items: Iterator[Item], limits: PictureLimits) -> None:
        """`items`: the items of the run's sources, in order."""
        self._journal = journal
        self._items = items
        self._limits = limits
        self._next: Item | None = None
        self.missing = 0

    def __iter__(self) -> Iterator[PicturedResult]:
        for row in self._journal.rows():
            data = None
            if row.result.error is None:
                data = self._picture(row)
                self.missing += data is None
            ending = "" if data is None else _ending(row.file or row.result.path, data)
            yield PicturedResult.of(row.result, picture=data, ending=ending)

    def _picture(self, row: Row) -> bytes | None:
        if row.file is not None:
            item = Item(row.key, row.file, row.file, file=row.file)
            return self._encoded(item) if stamped(item).stamp == row.stamp else None
        while self._next is None or self._next.position < row.position:
            self._next = next(self._items, None)
            if self._next is None:
                return None
        # The key of a picture inside a file contains the hash of its content.
        return self._encoded(self._next) if self._next.key == row.key else None

    def _encoded(self, item: Item) -> bytes | None:
        """The unchanged file of a picture; for pixels, a PNG."""
        source = item.picture
        try:
            if isinstance(source, NamedBytes):
                return source.getvalue()
            if item.file is not None or (isinstance(source, str) and is_remote(source)):
                with reading(item.file or source) as file:
                    return file.read()
            if isinstance(source, str) and is_web(source) and source[:5].lower() != "data:":
                return fetch(source, self._limits)
            data = io.BytesIO()
            open_picture(source, limits=self._limits).image.save(data, "PNG")
            return data.getvalue()
        except (OSError, PictureError):
            return None


def _ending(path: str, data: bytes) -> str:
    ending = os.path.splitext(path)[1].lower()
    if ending in picture_endings():
        return ending
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = (image.format or "").lower()
    except Exception:  # it was opened before: by another decoder, as HEIC is
        kind = ""
    return {"jpeg": ".jpg", "mpo": ".jpg", "tiff": ".tif", "jpeg2000": ".jp2"}.get(
        kind, f".{kind or 'image'}"
    )
