"""One picture of a collection, and the parts into which a collection is divided."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

from ..images.naming import one_line
from .storage import scheme

Position: TypeAlias = "tuple[int, int]"
"""The part, and the place in it: positions compare as the collection is ordered."""


@dataclass(frozen=True)
class Item:
    """A picture of a collection, not opened yet.

    key: identifies the item in a resumed run; unique, except that a path listed twice has the same key.
    path: as shown in the result. picture: the argument of `open_picture`, or None with the reason in `error`.
    file: its local path, if it is a local file (sidecar files are written next to it).
    stamp: once `stamped`, time and size of the file, by which a later change is recognised.
    """

    key: str
    path: str
    picture: Any = None
    error: str | None = None
    file: str | None = None
    stamp: str | None = None
    position: Position = (0, 0)


class Part(Protocol):
    """A part of a collection that can be read independently, in any process: some paths, a table, a shard."""

    def items(self) -> Iterator[Item]:
        """The items in order, read lazily."""

    def count(self) -> int:
        """The number of items, counted without reading the pictures."""


@dataclass(frozen=True)
class Head:
    """The first `size` pictures of a part."""

    part: Part
    size: int

    def items(self) -> Iterator[Item]:
        return itertools.islice(self.part.items(), self.size)

    def count(self) -> int:
        return min(self.size, self.part.count())


def path_item(path: str) -> Item:
    """The item of a picture's path or URL."""
    if path[:5].lower() == "data:":
        # A data: URL may have megabytes: keep its beginning, and a hash to keep it unique.
        shown = f"{one_line(path[:60])}... {hashlib.sha256(path.encode()).hexdigest()[:16]}"
        return Item(shown, shown, path)
    shown = showable(path)
    return Item(shown, shown, path, file=None if scheme(path) else path)


def positioned(parts: Iterable[Part], limit: int | None = None) -> Iterator[Item]:
    """All pictures of all parts, numbered, at most `limit`."""
    every = (
        replace(item, position=(number, place))
        for number, part in enumerate(parts)
        for place, item in enumerate(part.items())
    )
    return itertools.islice(every, limit)


def count(parts: Iterable[Part], limit: int | None = None) -> int:
    """How many pictures `positioned` gives."""
    total = 0
    for part in parts:
        total += part.count()
        if limit is not None and total >= limit:
            return limit
    return total


def content_key(place: str, data: bytes | bytearray | memoryview) -> str:
    """The key of a picture inside a table or shard. It depends on the content: when such a file is rewritten,
    another picture may have the same row or name, and must not receive the old caption."""
    return f"{place} {hashlib.sha256(data).hexdigest()[:16]}"


@dataclass
class MemberKeys:
    """Keys of an archive's members: the archive's path and the member's name, numbered if a name is
    repeated."""

    path: str
    _seen: Counter[str] = field(default_factory=Counter)

    def key(self, name: str) -> str:
        self._seen[name] += 1
        again = f" ({self._seen[name]})" if self._seen[name] > 1 else ""
        return showable(f"{self.path}/{name}{again}")


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it is in, is hidden by a dot, or is what macOS puts into archives: "._a.jpg"
    beside a.jpg, and __MACOSX/. `name`: relative to what the user gave."""
    return any(
        (part[:1] == "." and part not in (".", "..")) or part == "__MACOSX" for part in _parts_of(name)
    )


def is_excluded(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern matches the relative path `name`, the file's own name, or that of a folder
    on the way to it."""
    parts = _parts_of(name)
    tails = [*parts, *("/".join(parts[: end + 1]) for end in range(1, len(parts)))]
    wanted = (pattern.replace("\\", "/").strip("/") for pattern in patterns)
    return any(fnmatch.fnmatchcase(tail, pattern) for pattern in wanted for tail in tails)


def _parts_of(name: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", name) if part]


def stamped(item: Item) -> Item:
    """The item with the modification time and size of its file; without a stamp if there is no file."""
    if item.file is None or (stamp := stamp_of(item.file)) is None:
        return item
    return replace(item, stamp=stamp)


def stamp_of(file: str) -> str | None:
    """The modification time and size of a file; None if there is none."""
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return None
    return f"{found.st_mtime_ns:x} {found.st_size:x}"


def is_same(kept: str | None, stamp: str | None) -> bool:
    """Whether a result stored with a stamp is still valid. Also true if the file has vanished (an unplugged
    disk) or had no stamp when it was captioned."""
    return kept is None or stamp is None or kept == stamp


def showable(text: str) -> str:
    """Encodes text that may be invalid Unicode (a file name, a lone surrogate in JSON) so that any format can
    hold it."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


def packed(file: str | None) -> bytes | None:
    """A path as valid Unicode, which a file name need not be."""
    return None if file is None else file.encode("utf-8", "surrogatepass")


def unpacked(file: bytes | None) -> str | None:
    """The inverse of `packed`."""
    return None if file is None else file.decode("utf-8", "surrogatepass")
