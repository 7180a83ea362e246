"""CSV as people's programs write it."""

from __future__ import annotations


def delimiter(header: str, usual: str = ",") -> str:
    """What stands between the cells: spreadsheets write semicolons where the comma is in numbers."""
    return ";" if ";" in header and usual not in header else usual
