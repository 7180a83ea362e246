"""Which picture a request is about, so that requests of one picture can go to the replica that knows it."""

from __future__ import annotations

import binascii
import hashlib
import json
from collections.abc import Iterator
from typing import Any

# The fields of requests that hold pictures, in all the APIs: each a string, or a list of strings.
_FIELDS = frozenset(("url", "image_url", "images", "pictures"))


def picture_key(body: bytes, content_type: str) -> str:
    """The same text for requests about the same picture, however they bring it; "" where there is none.

    The last picture counts, as it does for the model. A form (curl, with several pictures mostly) has no key.
    """
    if not body or content_type.partition(";")[0].strip().lower() == "multipart/form-data":
        return ""
    try:
        pictures = list(_pictures(json.loads(body)))
    except (ValueError, RecursionError):  # the replica says what is wrong with it
        return ""
    return hashlib.sha256(_content(pictures[-1])).hexdigest() if pictures else ""


def _pictures(given: Any) -> Iterator[str]:
    if isinstance(given, list):
        for one in given:
            yield from _pictures(one)
    elif isinstance(given, dict):
        for name, value in given.items():
            if name in _FIELDS and isinstance(value, str):
                yield value
            elif name in _FIELDS and isinstance(value, list) and all(isinstance(one, str) for one in value):
                yield from value
            else:
                yield from _pictures(value)


def _content(source: str) -> bytes:
    """The bytes of a picture's file; of an address, the address."""
    head, _, data = source.rpartition(",")
    if head and not head.lower().endswith(";base64"):
        return source.encode("utf-8", "surrogatepass")
    try:
        return binascii.a2b_base64(data)
    except (ValueError, binascii.Error):
        return source.encode("utf-8", "surrogatepass")
