"""Text files as people's programs write them."""

from __future__ import annotations

import codecs


def delimiter(header: str, usual: str = ",") -> str:
    """What stands between the cells: spreadsheets write semicolons where the comma is in numbers."""
    return ";" if ";" in header and usual not in header else usual


def encoding(head: bytes) -> str:
    """The encoding of a text file that begins with `head` (4 bytes suffice): UTF-8, or the UTF-16 that PowerShell and
    spreadsheets write, with its byte order mark or without."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # In paths, URLs and headers the first letters are ASCII, which UTF-16 fills up with zeros.
    if len(head) >= 4 and not head[1] and not head[3]:
        return "utf-16-le"
    if len(head) >= 4 and not head[0] and not head[2]:
        return "utf-16-be"
    return "utf-8-sig"
