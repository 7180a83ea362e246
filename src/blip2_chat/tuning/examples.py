"""What a model is taught: pictures with a question and its answer, or with a caption, from the files people have.

CSV and JSON lines with `picture`, `question` (empty or absent: a caption) and `answer`, and folders of pictures with
a text file of the same name beside each, as trainers have them. It is all checked before anything heavy happens.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import Blip2ChatError
from ..examples import Problems, read_rows
from ..images import is_picture_file, open_picture


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
    rows, when any of them cannot be used; each picture is opened once. Of several answers the most frequent is
    taught."""
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path)
    return [
        Example(row.picture, row.question, Counter(row.answers).most_common(1)[0][0], row.where)
        for row in read_rows(path, open_picture)
    ]


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


def _folder(path: Path) -> list[Example]:
    examples = []
    try:
        for picture in sorted(path.rglob("*")):
            beside = picture.with_suffix(".txt")
            if picture.is_file() and is_picture_file(picture.name) and beside.is_file():
                text = " ".join(beside.read_text(encoding="utf-8", errors="replace").split())
                examples.append(Example(str(picture.absolute()), None, text, picture.name))
    except OSError as error:
        raise Blip2ChatError(f"{path} cannot be read: {error.strerror or error}") from None
    if not examples:
        raise Blip2ChatError(f"{path} has no examples: it needs pictures with a .txt file beside each")
    problems = Problems()
    for one in examples:
        if not one.answer:
            problems.add(one.where, "has no answer")
        else:
            problems.check(one.where, one.picture, open_picture)
    problems.raise_for(path)
    return examples
