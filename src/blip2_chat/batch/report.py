"""The result of a run as one HTML page that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ..errors import Blip2ChatError
from ..images import PictureLimits, open_picture
from .errors import RunError
from .items import Item, Part
from .result import Result
from .shards import SHARD_SUFFIXES
from .sources import open_sources, path_item
from .storage import NamedBytes, is_remote, is_web, reading, reason, sync_folder
from .tables import TABLE_SUFFIXES
from .writers import read

# Longest side of a thumbnail, by the number of different pictures: the page stays some tens of megabytes.
_SIDES = ((400, 360), (2_000, 240), (6_000, 176))
_SMALLEST = 144
_QUALITY = 55
Progress = Callable[[str, int, int], None]


def report(
    results: str, out: str | Path, *, title: str | None = None, on_progress: Progress | None = None
) -> int:
    """Reads what a run wrote, makes thumbnails of its pictures, writes the page -> how many pictures it shows.

    Pictures are looked for where the run found them, then beside the results. Those that are gone are shown
    without a thumbnail. Raises `RunError`.
    """
    if not is_remote(results) and os.path.abspath(results) == os.path.abspath(out):
        raise RunError(f"{out} is the result itself, and would be replaced; give another --out")
    rows = list(read(results))
    if not rows:
        raise RunError(f"{results} has no rows to show")
    questions = list(dict.fromkeys(question for row in rows for question in row.answers))
    # Pictures with the same pixels share a thumbnail.
    wanted = {row.digest or row.path: row.path for row in reversed(rows) if row.error is None}
    side = next((side for most, side in _SIDES if len(wanted) <= most), _SMALLEST)
    places: dict[str, int] = {}
    thumbs: list[str] = []
    beside = os.path.dirname(results) if not is_remote(results) else ""
    for done, (path, thumb) in enumerate(_thumbnails(list(wanted.values()), beside, side), 1):
        if thumb is not None:
            places[path] = len(thumbs)
            thumbs.append(base64.b64encode(thumb).decode("ascii"))
        if on_progress is not None:
            on_progress("making thumbnails", done, len(wanted))
    models = dict.fromkeys(f"{row.model} {row.precision}".strip() for row in rows)
    page: dict[str, Any] = {
        "title": title or os.path.basename(results),
        "model": ", ".join(one for one in models if one),
        "questions": questions,
        "rows": [_row(row, questions, places.get(wanted.get(row.digest or row.path, ""))) for row in rows],
        "thumbs": thumbs,
    }
    _write(Path(out), page)
    return len(rows)


def _row(row: Result, questions: list[str], thumb: int | None) -> list[Any]:
    answers = [row.answers.get(question) or "" for question in questions]
    score = None if row.score is None else round(row.score, 4)
    size = (row.width, row.height)
    return [row.path, list(row.captions), answers, score, row.error, *size, row.duplicate_of, thumb]


def _write(out: Path, page: dict[str, Any]) -> None:
    template = files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    # "<" cannot end the script element early, nor begin a comment in it.
    content = json.dumps(page, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    before, after = template.split("@DATA@")
    draft = out.with_name(f".{out.name}.part")
    try:
        with draft.open("w", encoding="utf-8", errors="replace") as file:
            file.write(before)
            file.write(content)
            file.write(after)
        draft.replace(out)
        sync_folder(out.absolute().parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise RunError(f"{out} cannot be written ({reason(error)})") from error


def _thumbnails(paths: list[str], beside: str, side: int) -> Iterator[tuple[str, bytes | None]]:
    """Each path with its thumbnail, in any order; pictures of a table or shard in one pass over it."""
    containers: dict[str, set[str]] = {}
    alone = []
    for path in paths:
        container = _container(path)
        if container is None:
            alone.append(path)
        else:
            containers.setdefault(container, set()).add(path)
    sources: list[Iterable[tuple[str, Item]]] = [((path, _found(path, beside)) for path in alone)]
    sources += [_inside(container, inside, beside) for container, inside in containers.items()]
    workers = max(2, min(8, os.cpu_count() or 2))
    with ThreadPoolExecutor(workers, "blip2-chat-thumb") as pool:
        for source in sources:
            waiting = deque[Any]()
            for path, item in source:
                waiting.append((path, pool.submit(_thumbnail, item, side)))
                if len(waiting) > 4 * workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
            yield from ((path, future.result()) for path, future in waiting)


def _container(path: str) -> str | None:
    """The shard or table that a picture's path leads into."""
    for suffix in SHARD_SUFFIXES:
        head, found, _ = path.partition(f"{suffix}/")
        if found:
            return head + suffix
    head, found, row = path.rpartition("#")
    return head if found and row.isdigit() and head.lower().endswith(TABLE_SUFFIXES) else None


def _found(path: str, beside: str) -> Item:
    """The picture where the run found it, or beside the results when the two were moved together."""
    moved = os.path.join(beside, path)
    if not is_web(path) and not is_remote(path) and not os.path.exists(path) and os.path.exists(moved):
        return path_item(moved)
    return path_item(path)


def _inside(container: str, paths: set[str], beside: str) -> Iterator[tuple[str, Item]]:
    """The pictures of a shard or table; what cannot be read has no thumbnail."""
    left = set(paths)
    moved = os.path.join(beside, container)
    where = moved if not is_remote(container) and not os.path.exists(container) else container
    with contextlib.suppress(Blip2ChatError):
        parts: Iterator[Part] = open_sources([where])
        for part in parts:
            for item in part.items():
                path = container + item.path[len(where) :]
                if path in left:
                    left.discard(path)
                    yield path, item
    yield from ((path, Item(path, path, error="not found")) for path in sorted(left))


def _thumbnail(item: Item, side: int) -> bytes | None:
    """A small WebP; None for a picture that is no longer there. Never raises: the page shows the rest."""
    if item.error is not None:
        return None
    try:
        image = _reduced(item, side) or open_picture(_source(item)).image
        image = image.convert("RGB")
        image.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
        data = io.BytesIO()
        image.save(data, "WEBP", quality=_QUALITY, method=2)
        return data.getvalue()
    except (Blip2ChatError, OSError, ValueError):
        return None


def _source(item: Item) -> Any:
    if isinstance(item.picture, str) and is_remote(item.picture):
        with reading(item.picture) as file:
            return NamedBytes(file.read(), item.picture)
    return item.picture


def _reduced(item: Item, side: int) -> Image.Image | None:
    """A JPEG file decoded at a fraction of its size: a tenth of the time. None for anything else."""
    if item.file is None or not item.file.lower().endswith((".jpg", ".jpeg", ".jpe", ".jfif")):
        return None
    try:
        with Image.open(item.file, formats=["JPEG"]) as image:
            PictureLimits().require_pixels(*image.size, item.path)
            image.draft("RGB", (2 * side, 2 * side))
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except Exception:  # damaged, or no JPEG after all: the careful way says so
        return None
