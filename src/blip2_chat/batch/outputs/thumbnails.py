"""Thumbnails for a report, each made from exactly the picture that its row describes.

A path may lead to a different picture than the one that was captioned: a table may have several picture
columns, a name column may name rows instead of files, the report may be made in another folder, or a file may
have been replaced. So each picture is compared with the digest in the row, and a row without a match has no
thumbnail.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ...errors import Blip2ChatError
from ...images import Picture, PictureLimits, open_picture
from ...images.naming import NamedBytes
from ..inputs.shards import SHARD_SUFFIXES
from ..inputs.sources import open_sources
from ..inputs.tables import TABLE_SUFFIXES, Columns
from ..inputs.zips import ZIP_SUFFIXES
from ..items import Item, path_item
from ..result import Result
from ..storage import is_remote, is_web, reading

_QUALITY = 55
# Where a picture may be, and the digests for which it is tried.
Candidate = tuple[Item, frozenset[str]]


@dataclass(frozen=True)
class Places:
    """Where to look for pictures, in addition to the paths in the rows.

    beside: the folder of the results, for relative paths. sources, columns: what the run was given. limits: at least
    those that it opened pictures with.
    """

    beside: str = ""
    sources: tuple[str, ...] = ()
    columns: Columns = field(default_factory=Columns)
    limits: PictureLimits = field(default_factory=PictureLimits)


@dataclass
class Thumbnails:
    """found: WebP files by digest. replaced: digests whose path now leads to a different picture."""

    found: dict[str, bytes] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)


def thumbnails(
    rows: Iterable[Result], places: Places, side: int, on_progress: Callable[[int, int], None]
) -> Thumbnails:
    """Thumbnails of at most `side` pixels for all rows with a digest. Never raises for a picture; one that
    cannot be found or read has none. `on_progress` is called with the numbers of pictures tried and of all
    pictures."""
    paths: dict[str, list[str]] = {}  # by digest
    for row in rows:
        if row.error is None and row.digest:
            paths.setdefault(row.digest, []).append(row.path)
    made = Thumbnails()
    tried = 0

    def missing() -> list[str]:
        return [digest for digest in paths if digest not in made.found]

    workers = max(2, min(8, os.cpu_count() or 2))
    with ThreadPoolExecutor(workers, "blip2-chat-thumb") as pool:

        def make(candidates: Iterable[Candidate], at_path: bool) -> None:
            waiting = deque[Any]()

            def collect() -> None:
                nonlocal tried
                digests, future = waiting.popleft()
                digest, thumbnail = future.result()
                if digest in digests and thumbnail is not None:
                    made.found[digest] = thumbnail
                elif digest is not None and at_path:
                    made.replaced |= digests
                tried += 1
                on_progress(min(tried, len(paths)), len(paths))

            for item, digests in candidates:
                waiting.append((digests, pool.submit(_thumbnail, item, digests, side, places.limits)))
                if len(waiting) > 4 * workers:
                    collect()
            while waiting:
                collect()

        # Try one path per digest first: most pictures have not moved, and duplicates need no second look.
        make(_at_paths({digest: paths[digest][:1] for digest in missing()}, places), True)
        make(_at_paths({digest: paths[digest][1:] for digest in missing()}, places), True)
        make(_in_sources({digest: paths[digest] for digest in missing()}, places), False)
    return made


def _at_paths(wanted: dict[str, list[str]], places: Places) -> Iterator[Candidate]:
    """The pictures at the paths in the rows, and at the same paths relative to the results."""
    alone: dict[str, set[str]] = defaultdict(set)
    inside: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for digest, paths in wanted.items():
        for path in paths:
            container = container_of(path)
            if container is None:
                alone[path].add(digest)
            else:
                inside[container][path].add(digest)
    for path, digests in alone.items():
        for place in _possible(path, places.beside):
            yield path_item(place), frozenset(digests)
    # Read all pictures of a table or shard in one pass.
    for container, members in inside.items():
        for place in _possible(container, places.beside):
            for item in _items(place, places.columns):
                known = members.get(container + item.path[len(place) :])
                if known:
                    yield item, frozenset(known)


def _in_sources(wanted: dict[str, list[str]], places: Places) -> Iterator[Candidate]:
    """The pictures in the run's sources whose names are still missing."""
    named: dict[str, set[str]] = defaultdict(set)
    for digest, paths in wanted.items():
        for path in paths:
            named[_last(path)].add(digest)
    for source in places.sources if named else ():
        if is_web(source):
            continue  # the same path as in the row, which was already tried
        for item in _items(source, places.columns):
            if digests := named.get(_last(item.path)):
                yield item, frozenset(digests)


def container_of(path: str) -> str | None:
    """The shard or table that contains a picture, from its path."""
    for suffix in (*SHARD_SUFFIXES, *ZIP_SUFFIXES):
        head, found, _ = path.partition(f"{suffix}/")
        if found:
            return head + suffix
    head, found, row = path.rpartition("#")
    # A row, or one of the pictures in it: "#3", "#3[0]".
    is_row = re.fullmatch(r"\d+(\[\d+\])?", row) is not None
    return head if found and is_row and head.lower().endswith(TABLE_SUFFIXES) else None


def _possible(path: str, beside: str) -> Sequence[str]:
    """A path as given, and relative to the results, in case these were moved or the report is made
    elsewhere."""
    if is_web(path) or is_remote(path) or not beside:
        return [path]
    moved = os.path.join(beside, path)
    return [path, moved] if os.path.abspath(moved) != os.path.abspath(path) else [path]


def _items(source: str, columns: Columns) -> Iterator[Item]:
    """The pictures of a source, up to the first part that cannot be read."""
    with contextlib.suppress(Blip2ChatError, OSError):
        for part in open_sources([source], columns):
            yield from part.items()


def _last(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def _thumbnail(
    item: Item, digests: frozenset[str], side: int, limits: PictureLimits
) -> tuple[str | None, bytes | None]:
    """(digest, WebP) of the picture that is there: no digest when there is none, no WebP when it is another."""
    if item.error is not None:
        return None, None
    try:
        picture = _opened(item, limits)
        if picture.digest not in digests:
            return picture.digest, None
        image = picture.image.copy()
        image.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
        data = io.BytesIO()
        image.save(data, "WEBP", quality=_QUALITY, method=2)
        return picture.digest, data.getvalue()
    except (Blip2ChatError, OSError, ValueError):
        return None, None


def _opened(item: Item, limits: PictureLimits) -> Picture:
    if isinstance(item.picture, str) and is_remote(item.picture):
        with reading(item.picture) as file:
            return open_picture(NamedBytes(file.read(), item.picture), limits=limits)
    return open_picture(item.picture, limits=limits)
