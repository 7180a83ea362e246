"""The picture column of one row of a table -> pictures."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...images.kinds import begins_like_picture
from ...images.naming import NamedBytes, one_line
from ..items import Item, content_key, path_item, showable
from ..storage import exists, is_web, parent
from .lists import resolve

# No system has longer paths, and no server accepts longer URLs.
_LONGEST = 32_768
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")
_URL_SAFE = str.maketrans("-_", "+/")


def row_items(
    path: str, number: int, row: Mapping[str, Any], column: str, name_column: str | None
) -> Iterator[Item]:
    """The pictures in one row: a path, a URL, the bytes of a file, those bytes in base64, or `{"bytes": ...,
    "path": ...}` as in `datasets`. Each element of a list is an item of its own, named
    `table.parquet#row[index]`."""
    value = row.get(column)
    row_name = showable(f"{path}#{number}")
    where = f"row {number} of {one_line(path)}"
    name = row.get(name_column) if name_column else None
    shown = None if name is None else showable(str(name))
    several = _several(value)
    if several is None:
        yield _item(value, row_name, shown, path, f"{where} has no picture in {column!r}")
    elif not several:
        yield Item(row_name, shown or row_name, error=f"{where} has an empty list in {column!r}")
    elif all(isinstance(one, (int, float, list, type(None))) for one in several):
        told = (
            f"{where} has numbers in {column!r}, and no file of a picture; save the pictures as PNG or JPEG"
        )
        yield Item(row_name, shown or row_name, error=told)
    else:
        for place, one in enumerate(several):
            what = f"{where} has no picture in {column!r} at {place}"
            yield _item(one, f"{row_name}[{place}]", shown and f"{shown}[{place}]", path, what)


def _several(value: Any) -> list[Any] | None:
    """The elements of a list (in CSV: as JSON); None for anything else."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, str) and value[:1] == "[" and value.rstrip()[-1:] == "]":
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return None  # a file may be called "[1].png"
        return found if isinstance(found, list) else None
    return None


def _item(value: Any, key: str, shown: str | None, path: str, nothing: str) -> Item:
    """`shown`: the name from the table's name column, if there is one. `nothing`: the error for an empty
    cell."""
    name = shown or key
    inner_name = None
    if isinstance(value, Mapping):
        inner_name = value.get("path")
        value = value.get("bytes") or inner_name
    if isinstance(value, str) and value.strip():
        text = value.strip()
        if text[:5].lower() == "data:":
            return Item(content_key(key, text.encode("utf-8", "replace")), name, text)
        data = from_base64(text)
        if data is None:
            if len(text) > _LONGEST:
                return Item(key, name, error=f"{nothing}, but {len(text):,} characters of text")
            where = (
                value if value != text and not is_web(text) and exists(resolve(value, parent(path))) else text
            )
            item = path_item(resolve(where, parent(path)))
            return item if shown is None else replace(item, path=shown)
        value = data
    if isinstance(value, (bytes, bytearray, memoryview)) and len(value):
        data = bytes(value)
        if not begins_like_picture(data[:256]):
            data = from_base64(data.decode("latin-1")) or data
        return Item(content_key(key, data), name, NamedBytes(data, str(inner_name or name)))
    return Item(key, name, error=nothing)


def from_base64(text: str) -> bytes | None:
    """The bytes of a base64 picture, with or without line breaks or Python's `b'...'` around it; None for other
    text. Invalid base64 later in the text is dropped; opening the picture then reports the damage."""
    if text[:2] in ("b'", 'b"') and text[-1:] == text[1]:
        text = text[2:-1]
    head = "".join(text[:400].split())[:344]
    if not _BASE64.match(head) or not begins_like_picture(_decoded(head)):
        return None
    return _decoded(text)


def _decoded(text: str) -> bytes:
    packed = "".join(text.split()).rstrip("=").translate(_URL_SAFE)
    # A single character after a multiple of four means that the text was cut off.
    packed = packed[: len(packed) - (len(packed) % 4 == 1)]
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4))
    except (binascii.Error, ValueError):
        return b""
