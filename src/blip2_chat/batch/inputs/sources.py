"""Sources of a run -> the parts of a collection: folders, patterns, lists, tables, shards, URLs."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ...images import HEAD_BYTES, PictureSource, is_picture_file, looks_like_picture
from ...images.naming import one_line
from ..errors import RunError, UnreadableError
from ..items import Item, Part, is_excluded, is_hidden, path_item, showable
from ..storage import file_system, is_remote, is_web, reason, translated
from .folders import GLOB, Walk, globbed, in_braces, is_sidecar
from .lists import LIST_SUFFIXES, listed, stdin_lines
from .passed_over import kind_of, told
from .shards import SHARD_SUFFIXES, Shard
from .tables import TABLE_SUFFIXES, Columns, table
from .zips import ZIP_SUFFIXES, Zip

CONTAINER_SUFFIXES = (*LIST_SUFFIXES, *TABLE_SUFFIXES, *SHARD_SUFFIXES, *ZIP_SUFFIXES)


@dataclass(frozen=True)
class Paths:
    """A few paths or URLs, each a picture."""

    paths: tuple[str, ...]

    def items(self) -> Iterator[Item]:
        return map(path_item, self.paths)

    def count(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Failed:
    """Sources that cannot be read, such as a missing shard or an unreadable `lost+found`: pairs (path, reason),
    each of which becomes a row."""

    reasons: tuple[tuple[str, str], ...]

    def items(self) -> Iterator[Item]:
        for path, why in self.reasons:
            yield Item(showable(path), showable(path), error=why)

    def count(self) -> int:
        return len(self.reasons)


@dataclass(frozen=True)
class InMemory:
    """Pictures passed from Python, named by their number."""

    pictures: tuple[PictureSource, ...]
    first: int = 0

    def items(self) -> Iterator[Item]:
        for number, picture in enumerate(self.pictures, self.first):
            yield Item(f"#{number}", f"#{number}", picture)

    def count(self) -> int:
        return len(self.pictures)


Source: TypeAlias = "str | os.PathLike[str] | Part"


@dataclass(frozen=True)
class _Reading:
    """How sources are read: the arguments of `open_sources`."""

    columns: Columns
    chunk: int
    but: Collection[str]
    exclude: tuple[str, ...]
    lenient: bool
    passed: Counter[str] = field(default_factory=Counter)


def open_sources(
    sources: Iterable[Source],
    columns: Columns = Columns(),  # noqa: B008 - frozen
    *,
    chunk: int = 256,
    but: Collection[str] = (),
    exclude: Sequence[str] = (),
    passed: Counter[str] | None = None,
    lenient: bool = False,
) -> Iterator[Part]:
    """The parts of all sources, in order; folders are walked lazily.

    `but`: absolute paths that patterns must not match, because the run itself writes them. `exclude`: patterns
    of files and folders to skip. `passed`: counts skipped files by kind.

    A missing or damaged shard, table or list becomes a row, as long as another source can be read. Raises
    `RunError` if none can, and for any other source that does not exist or has no pictures; with `lenient`,
    those become rows too.
    """
    how = _Reading(columns, chunk, but, tuple(exclude), lenient, Counter() if passed is None else passed)
    failed: list[Failed] = []
    is_read = lenient
    for source in sources:
        for part in _source_parts(source, how):
            if isinstance(part, Failed) and not is_read:
                failed.append(part)
                continue
            is_read = True
            yield from failed
            failed.clear()
            yield part
    if failed:
        raise UnreadableError(failed[0].reasons[0][1])


def check(sources: Sequence[Source], columns: Columns, exclude: Sequence[str] = ()) -> None:
    """Raises `RunError` for the first source that cannot be read, before a model is loaded; for shards, tables
    and lists only if none can be read."""
    if not sources:
        raise RunError("give a folder, a pattern, a list, a table or shards to read pictures from")
    unreadable = []
    for source in sources:
        try:
            next(open_sources([source], columns, chunk=1, exclude=exclude))
        except UnreadableError as error:
            unreadable.append(error)
    if len(unreadable) == len(sources):
        raise unreadable[0]


def stdin_list() -> Paths:
    """The paths on standard input, one per line. Raises `RunError` when there are none."""
    return Paths(stdin_lines())


def _source_parts(source: Source, how: _Reading) -> Iterator[Part]:
    if not isinstance(source, str | os.PathLike):
        yield source
        return
    address = os.fsdecode(source)
    before = how.passed.copy()
    found = False
    for part in _guarded(address, _parts(address, how), RunError if how.lenient else UnreadableError):
        found = True
        yield part
    if not found:
        passed = told(how.passed - before)
        what = (
            f"there are no pictures in {one_line(address)}{f' ({passed})' if passed else ''}{_hint(address)}"
        )
        if not how.lenient:
            raise RunError(what)
        yield Failed(((address, what),))


def _guarded(address: str, parts: Iterator[Part], kind: type[RunError] = UnreadableError) -> Iterator[Part]:
    """The readable parts of one source, then, if it is a shard, table or list, the reason why no more can be
    read."""
    try:
        yield from parts
    except kind as error:
        yield Failed(((address, str(error)),))


def _parts(address: str, how: _Reading) -> Iterator[Part]:
    if is_web(address):
        yield Paths((address,))
    elif (several := in_braces(address)) is not None:
        for one in several:
            yield from _guarded(one, _parts(one, how))
    elif is_remote(address):
        yield from _remote(address, how)
    else:
        yield from _local(os.path.expanduser(address), how)


def _local(path: str, how: _Reading) -> Iterator[Part]:
    if os.path.isdir(path):
        walk = Walk(path, how.exclude, how.but, how.passed)
        yield from _chunks(walk, how.chunk)
        if path in walk.closed:
            raise RunError(f"{one_line(path)} may not be read; give another folder, or ask its owner")
        if walk.closed:
            yield Failed(
                tuple(
                    (one, f"{one_line(one)} may not be read; what is in it is left out")
                    for one in walk.closed
                )
            )
    elif os.path.exists(path):
        yield from _file(path, how)
    elif GLOB.search(path) and ((matches := list(_matches(path, how))) or not how.lenient):
        # Grouped, so that parts hold many pictures instead of one.
        for is_container, group in itertools.groupby(matches, _is_container):
            if is_container:
                for one in group:
                    yield from _guarded(one, _file(one, how))
            else:
                yield from _chunks(group, how.chunk)
    elif _is_container(path):
        raise UnreadableError(f"{one_line(path)} was not found; check the path")
    elif looks_like_picture(path, b"") or how.lenient:
        yield Paths((path,))  # a missing picture becomes a row; the others are captioned
    else:
        raise RunError(f"{one_line(path)} was not found; check the path")


def _matches(pattern: str, how: _Reading) -> Iterator[str]:
    """The files that a pattern matches: pictures, and files that contain pictures."""
    found = sorted(one for one in globbed(pattern) if os.path.abspath(one) not in how.but)
    base = os.path.dirname(re.split(GLOB, pattern)[0]) or "."
    pictures = {one for one in found if looks_like_picture(one, b"")}
    names = {os.path.splitext(one)[0] for one in pictures} | pictures
    for one in found:
        if is_excluded(os.path.relpath(one, base), how.exclude):
            how.passed["excluded folder" if os.path.isdir(one) else "excluded file"] += 1
        elif os.path.isdir(one):
            how.passed["folder"] += 1
        elif is_sidecar(one, names):
            continue  # it belongs to a picture and is not a list of pictures
        elif _is_container(one) or is_picture_file(one):
            yield one
        else:
            how.passed[kind_of(one)] += 1


def _remote(address: str, how: _Reading) -> Iterator[Part]:
    fs, path = file_system(address)

    found = []
    try:
        with translated(address):
            is_pattern = bool(GLOB.search(address)) and not fs.exists(path)
            if is_pattern or fs.isdir(path):
                base = path.rpartition("/")[0] if is_pattern else path
                for one in fs.glob(path) if is_pattern else fs.find(path):
                    name = one[len(base) :] if one.startswith(base) else one
                    if is_hidden(name) or (is_pattern and fs.isdir(one)):
                        continue
                    if is_excluded(name, how.exclude):
                        how.passed["excluded file"] += 1
                    elif (is_pattern and _is_container(one)) or _is_remote_picture(fs, one):
                        found.append(one)
                    else:
                        how.passed[kind_of(one)] += 1
                found.sort(key=None if is_pattern else _as_walked)
            elif fs.exists(path) or (how.lenient and not _is_container(address)):
                found = [path]
            else:
                kind = UnreadableError if _is_container(address) else RunError
                raise kind(f"{one_line(address)} was not found; check the address")
    except OSError as error:
        raise RunError(f"{one_line(address)} cannot be read ({reason(error)})") from error
    for is_container, group in itertools.groupby(map(fs.unstrip_protocol, found), _is_container):
        if is_container:
            for one in group:
                yield from _guarded(one, _file(one, how))
        else:
            yield from _chunks(group, how.chunk)


def _is_remote_picture(fs: Any, path: str) -> bool:
    return looks_like_picture(path, lambda: fs.cat_file(path, end=HEAD_BYTES))


def _as_walked(path: str) -> list[tuple[bool, str]]:
    """Sorts paths in the order of `Walk`: files before folders."""
    *folders, name = path.split("/")
    return [*((True, folder) for folder in folders), (False, name)]


def _file(path: str, how: _Reading) -> Iterator[Part]:
    lower = path.lower()
    if lower.endswith(SHARD_SUFFIXES):
        yield Shard(path, how.exclude)
    elif lower.endswith(ZIP_SUFFIXES):
        yield Zip(path, how.exclude)
    elif lower.endswith(TABLE_SUFFIXES):
        yield from table(path, how.columns, how.chunk)
    elif lower.endswith(LIST_SUFFIXES):
        yield from _chunks(listed(path, how.passed), how.chunk)
    else:
        yield Paths((path,))


def _is_container(path: str) -> bool:
    return path.lower().endswith(CONTAINER_SUFFIXES)


def _chunks(paths: Iterable[str], size: int) -> Iterator[Part]:
    iterator = iter(paths)
    while chunk := tuple(itertools.islice(iterator, size)):
        yield Paths(chunk)


def _hint(address: str) -> str:
    if os.path.isdir(address):
        inside = {os.path.splitext(name)[1].lower() for name in os.listdir(address)}
        for suffix in (*SHARD_SUFFIXES, *ZIP_SUFFIXES, *TABLE_SUFFIXES):
            if suffix in inside:
                return f"; for the {suffix} files in it give '{os.path.join(address, '*' + suffix)}'"
    return ""
