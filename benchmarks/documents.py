"""Measured tables in the documents: each stands between two marks, and is only ever written by its benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def put(document: str, results: str, table: str) -> None:
    """Replaces the table that the marks of `results` (a file's name in docs/) enclose in `document`."""
    path = ROOT / document
    before, rest = path.read_text(encoding="utf-8").split(begin(results), 1)
    after = rest.split(end(results), 1)[1]
    path.write_text(f"{before}{begin(results)}\n{table}{end(results)}{after}", encoding="utf-8")


def begin(results: str) -> str:
    return f"<!-- written by `make bench` from docs/{results} -->"


def end(results: str) -> str:
    return f"<!-- end of docs/{results} -->"


def keep(results: str, measured: Any) -> None:
    """Writes docs/`results`."""
    DOCS.mkdir(exist_ok=True)
    (DOCS / results).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def read(results: str) -> Any:
    return json.loads((DOCS / results).read_text(encoding="utf-8"))


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
