"""Questions about pictures with the answers that people gave, from CSV and JSON lines.

Each row has `picture` (relative to the file), `question` (absent or empty: a caption is meant) and `answer`, which in
JSON may be a number or a list of what several people said; `answers` is the same. Bad rows are told together.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import Blip2ChatError, PictureError
from .system.text_files import delimiter, encoding

_SHOWN = 5
_TABLES = {".csv": ",", ".tsv": "\t"}
_NO_ROW = "is not a row with picture, question and answer"


@dataclass(frozen=True)
class Row:
    """`question` is None for a caption. `where` names the line that it came from."""

    picture: str
    question: str | None
    answers: tuple[str, ...]
    where: str


def must_be_a_file(picture: str) -> None:
    """`ValueError` unless it is one: what a row's picture is checked for at least."""
    if not Path(picture).is_file():
        raise ValueError(f"names {picture}, which is not a file")


def read_rows(path: Path, check: Callable[[str], object] = must_be_a_file) -> list[Row]:
    """The rows of a file. `Blip2ChatError`, in one line with the first bad rows, when any of them cannot be used.

    `check` is called once with each picture's path, and raises `ValueError` or `PictureError` for a bad one.
    """
    try:
        content = path.read_bytes()
        lines = list(_lines(path, content.decode(encoding(content[:4]))))
    except OSError as error:
        raise Blip2ChatError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:
        raise Blip2ChatError(f"{path} is neither CSV nor JSON lines: {error}") from None
    if not lines:
        raise Blip2ChatError(f"{path} has no questions: it needs rows with picture, question and answer")
    rows: list[Row] = []
    problems = Problems()
    for where, line in lines:
        try:
            row = _row(where, line, path.parent)
        except ValueError as error:
            problems.add(where, str(error))
            continue
        problems.check(where, row.picture, check)
        rows.append(row)
    problems.raise_for(path)
    return rows


class Problems:
    """What is wrong with the rows of a file or folder, told together."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._checked: dict[str, str | None] = {}  # what is wrong with each picture

    def add(self, where: str, fault: str) -> None:
        self._found.append(f"{where}: {fault}")

    def check(self, where: str, picture: str, check: Callable[[str], object]) -> None:
        """Adds what `check` raises about a picture, which it is asked about once."""
        if picture not in self._checked:
            try:
                check(picture)
                self._checked[picture] = None
            except (ValueError, PictureError) as error:
                self._checked[picture] = str(error)
        fault = self._checked[picture]
        if fault is not None:
            self.add(where, fault)

    def raise_for(self, path: Path) -> None:
        """`Blip2ChatError`, in one line with the first of them, if there are any."""
        if self._found:
            more = f"; and {len(self._found) - _SHOWN} more" if len(self._found) > _SHOWN else ""
            raise Blip2ChatError(f"{path}: {'; '.join(self._found[:_SHOWN])}{more}")


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    usual = _TABLES.get(path.suffix.lower())
    if usual is not None:
        rows = csv.DictReader(io.StringIO(text), delimiter=delimiter(text.partition("\n")[0], usual))
        for row in rows:
            yield f"line {rows.line_num}", row
        return
    # Not `splitlines`: inside of its strings JSON may hold other line ends than the one after it.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", _value(line)


def _value(line: str) -> Any:
    """What a line of JSON holds; None where it is not JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _row(where: str, row: Any, folder: Path) -> Row:
    if not isinstance(row, dict):
        raise ValueError(_NO_ROW)
    if None in row:
        raise ValueError("has more cells than the first line; quote what has commas in it")
    picture, question = row.get("picture"), row.get("question")
    if not picture or not isinstance(picture, str):
        raise ValueError("has no picture")
    if question is not None and not isinstance(question, str):
        raise ValueError("has a question that is not a text")
    said: Any = next((row[name] for name in ("answer", "answers") if row.get(name) not in (None, "", [])), [])
    people = said if isinstance(said, list) else [said]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in people):
        raise ValueError("has an answer that is neither a text nor a list of texts")
    answers = tuple(" ".join(str(one).split()) for one in people)
    if not answers or not all(answers):
        raise ValueError("has no answer")
    return Row(str(folder / picture), " ".join((question or "").split()) or None, answers, where)
