"""What a model is taught: pictures with a question and its answer, or with a caption, from the files people have.

CSV and JSON lines with `picture`, `question` (empty or absent: a caption) and `answer`, and folders of pictures with
a text file of the same name beside each, as trainers have them. It is all checked before anything heavy happens.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Blip2ChatError, PictureError
from ..images import is_picture_file, open_picture
from ..system.text_files import delimiter

_SHOWN = 5


@dataclass(frozen=True)
class Example:
    """`question` is None for a caption. `where` names the row or file that it came from."""

    picture: str
    question: str | None
    answer: str
    where: str


@dataclass(frozen=True)
class Split:
    """Examples for training, and examples held out, of other pictures."""

    training: Sequence[Example] = ()
    held_out: Sequence[Example] = ()


def read_examples(source: str | Path) -> list[Example]:
    """The examples of a CSV or JSON lines file, or of a folder. `Blip2ChatError`, in one line with the first bad
    rows, when any of them cannot be used; each picture is opened once."""
    path = Path(source).expanduser()
    problems: list[str] = []
    try:
        rows = list(_folder(path)) if path.is_dir() else list(_file(path))
    except OSError as error:
        raise Blip2ChatError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:
        raise Blip2ChatError(f"{path} is neither CSV nor JSON lines: {error}") from None
    if not rows:
        raise Blip2ChatError(f"{path} has no examples: it needs the columns picture, question and answer")
    examples: list[Example] = []
    opened: set[str] = set()
    for where, row in rows:
        try:
            example = _example(where, row, path.parent)
            if example.picture not in opened:
                open_picture(example.picture)
                opened.add(example.picture)
            examples.append(example)
        except (ValueError, PictureError) as error:
            problems.append(f"{where}: {error}")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise Blip2ChatError(f"{path}: {'; '.join(problems[:_SHOWN])}{more}")
    return examples


def split(examples: Sequence[Example], share: float, seed: int) -> Split:
    """All examples of a picture on one side, at least one picture on each."""
    pictures = sorted({example.picture for example in examples})
    if len(pictures) < 2:
        raise Blip2ChatError("there is only one picture; at least two are needed, one of them held out")
    random.Random(seed).shuffle(pictures)
    held_out = set(pictures[: max(1, round(share * len(pictures)))])
    return Split(
        [example for example in examples if example.picture not in held_out],
        [example for example in examples if example.picture in held_out],
    )


def check_lengths(examples: Sequence[Example], tokens: Callable[[Example], int], room: int) -> None:
    """`Blip2ChatError` naming the first whose question and answer do not fit the model."""
    for example in examples:
        if (count := tokens(example)) > room:
            raise Blip2ChatError(f"{example.where}: question and answer have {count} tokens, and {room} fit")


def _file(path: Path) -> Iterator[tuple[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() in (".csv", ".tsv"):
        rows = csv.DictReader(
            io.StringIO(text),
            delimiter="\t" if path.suffix.lower() == ".tsv" else delimiter(text.partition("\n")[0]),
        )
        for row in rows:
            yield f"line {rows.line_num}", row
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", _value(line)


def _value(line: str) -> Any:
    """What a line of JSON holds; None where it is not JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _folder(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for picture in sorted(path.rglob("*")):
        beside = picture.with_suffix(".txt")
        if picture.is_file() and is_picture_file(picture.name) and beside.is_file():
            text = beside.read_text(encoding="utf-8", errors="replace")
            yield picture.name, {"picture": str(picture.absolute()), "answer": text}


def _example(where: str, row: Any, folder: Path) -> Example:
    if not isinstance(row, dict) or None in row:
        raise ValueError("is not a row with picture, question and answer")
    picture, question, answer = (row.get(name) for name in ("picture", "question", "answer"))
    if not picture or not isinstance(picture, str):
        raise ValueError("has no picture")
    if question is not None and not isinstance(question, str):
        raise ValueError("has a question that is not a text")
    answer = " ".join(str(answer).split()) if isinstance(answer, str | int | float) else ""
    if not answer:
        raise ValueError("has no answer")
    return Example(str(folder / picture), " ".join((question or "").split()) or None, answer, where)
