"""Names of pictures for messages: one short line without secrets."""

from __future__ import annotations

import io
import re
from urllib.parse import urlsplit, urlunsplit

UNNAMED = "picture"
_LONGEST = 120


def one_line(text: str) -> str:
    """`text` as one printable line of at most 120 characters.

    File names and error texts may hold newlines, terminal escapes or undecodable bytes; a message is printed to
    terminals and logs unchanged.
    """
    spaced = re.sub(r"\s+", " ", text).strip()
    printable = "".join(c if c.isprintable() else "?" for c in spaced)
    if len(printable) > _LONGEST:
        half = (_LONGEST - 3) // 2
        printable = f"{printable[:half]}...{printable[-half:]}"
    return printable


def file_name(path: str) -> str:
    """The last component of a path of any operating system; "picture" if there is none."""
    return one_line(re.split(r"[/\\]", path.rstrip("/\\"))[-1]) or UNNAMED


def url_name(url: str) -> str:
    """A URL without user, password, query and fragment, which may contain tokens."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return one_line(urlunsplit((parts.scheme, host, parts.path, "", ""))) or UNNAMED
    except ValueError:
        return "the URL"


class NamedBytes(io.BytesIO):
    """A file's content that knows its name, for messages about it."""

    def __init__(self, data: bytes | bytearray, name: str) -> None:
        super().__init__(data)
        self.name = name
