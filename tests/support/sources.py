"""Small pictures of one colour, and archives of them, for the tests of a run's inputs."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from PIL import Image

from blip2_chat.batch.items import Item
from blip2_chat.images import open_picture


def png(colour: int = 0) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (6, 5), (colour, 1, 2)).save(data, "PNG")
    return data.getvalue()


def colour(item: Item) -> int:
    return open_picture(item.picture).image.getpixel((0, 0))[0]  # type: ignore[index,return-value]


def add(
    archive: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    archive.addfile(info, io.BytesIO(data))


def make_shard(path: Path, colours: range, mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for n in colours:
            for kind, data in (("png", png(n)), ("json", b"{}")):
                info = tarfile.TarInfo(f"{n:04}.{kind}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
