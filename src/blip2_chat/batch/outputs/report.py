"""The results of a run as one self-contained HTML page: no server, no network, no other files."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...errors import Parameter
from ...images import PictureLimits
from ...system.progress import Progress
from ...system.whole_files import replacing
from ..errors import RunError
from ..inputs.tables import Columns
from ..recorded import recorded_settings
from ..result import Result
from ..storage import is_remote, reason
from .thumbnails import Places, Thumbnails, thumbnails
from .writers import read

# Longest side of a thumbnail by the number of different pictures, which keeps the page to tens of megabytes.
_SIDES = ((400, 360), (2_000, 240), (6_000, 176))
_SMALLEST = 144

Alike = Callable[[Collection[str]], Mapping[str, Sequence[str]]]
"""The digests of pictures -> by digest, those of the pictures among them that are most like it, best first."""


def report(
    results: str,
    out: str | Path,
    *,
    title: str | None = None,
    pictures: Sequence[str] = (),
    columns: Columns = Columns(),  # noqa: B008 - frozen
    alike: Alike | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Reads the output of a run, makes thumbnails, and writes the page -> the number of pictures on it.

    Pictures are looked up at the paths in the results, relative to the results file, and in `pictures`
    (sources; by default, like `columns`, those that the run recorded). A picture is shown only if it has the
    digest of the row; otherwise the card says that it was not found. `alike` says which pictures are most like
    each: then each shows them. Raises `RunError`.
    """
    if not is_remote(results) and os.path.abspath(results) == os.path.abspath(out):
        raise RunError(
            f"{out} is the file of results and would be overwritten; choose another ", Parameter("out")
        )
    rows = list(read(results))
    if not rows:
        raise RunError(f"{results} has no rows to show")
    questions = list(dict.fromkeys(question for row in rows for question in row.answers))
    different = len({row.digest for row in rows if row.error is None and row.digest})
    side = next((side for most, side in _SIDES if different <= most), _SMALLEST)

    def progress(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress("making thumbnails", done, total)

    made = thumbnails(rows, _places(results, pictures, columns), side, progress)
    near = _near(rows, alike)
    numbers = {digest: number for number, digest in enumerate(made.found)}
    models = dict.fromkeys(f"{row.model} {row.precision}".strip() for row in rows)
    page: dict[str, Any] = {
        "title": title or os.path.basename(results),
        "model": ", ".join(one for one in models if one),
        "questions": questions,
        "rows": [[*_row(row, questions, made, numbers), near.get(_identity(row), [])] for row in rows],
        "thumbs": [base64.b64encode(thumbnail).decode("ascii") for thumbnail in made.found.values()],
    }
    _write(Path(out), page)
    return len(rows)


def _identity(row: Result) -> str:
    """The digest of a picture that could be read."""
    return row.digest if row.error is None and row.digest else ""


def _near(rows: Sequence[Result], alike: Alike | None) -> dict[str, list[int]]:
    """By digest, the rows of the pictures that are most like it: of each the first row."""
    first: dict[str, int] = {}
    for at, row in enumerate(rows):
        if _identity(row):
            first.setdefault(_identity(row), at)
    found = {} if alike is None else alike(list(first))
    return {digest: [first[other] for other in others] for digest, others in found.items()}


def _places(results: str, pictures: Sequence[str], columns: Columns) -> Places:
    recorded = recorded_settings(results)
    names = recorded.get("columns")
    if isinstance(names, list) and len(names) == 2:
        columns = Columns(columns.picture or names[0], columns.name or names[1])
    sources = pictures or [one for one in recorded.get("sources") or [] if isinstance(one, str)]
    beside = "" if is_remote(results) else os.path.dirname(os.path.abspath(results))
    limits, recorded_pixels = PictureLimits(), recorded.get("max_pixels")
    if isinstance(recorded_pixels, int):
        limits = replace(limits, max_pixels=max(limits.max_pixels, recorded_pixels))
    return Places(beside, tuple(sources), columns, limits)


def _row(row: Result, questions: list[str], made: Thumbnails, numbers: dict[str, int]) -> list[Any]:
    answers = [row.answers.get(question) or "" for question in questions]
    score = None if row.score is None else round(row.score, 4)
    size = (row.width, row.height)
    number = None if row.error is not None else numbers.get(row.digest or "")
    why = None
    if row.error is None and number is None:
        if not row.digest:
            why = "no digest to check the picture against"
        else:
            why = "another picture is there now" if row.digest in made.replaced else "picture not found"
    return [
        row.path,
        list(row.captions),
        answers,
        score,
        row.error,
        *size,
        row.duplicate_of,
        " ".join(row.advice),
        why,
        number,
    ]


def _write(out: Path, page: dict[str, Any]) -> None:
    template = files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    # Escape "<", so that it cannot end the script element or begin a comment in it.
    content = json.dumps(page, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    before, after = template.split("@DATA@")
    try:
        # Looking for thousands of pictures takes minutes.
        with replacing(out, survives_power_loss=True) as file:
            for text in (before, content, after):
                file.write(text.encode("utf-8", "replace"))
    except OSError as error:
        raise RunError(f"{out} cannot be written ({reason(error)})") from error
