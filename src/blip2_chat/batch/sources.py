"""What a user points at -> the parts of a collection: folders, globs, lists, tables, shards, URLs."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..images import PictureSource, looks_like_picture
from ..images.naming import one_line
from .errors import RunError
from .items import Item, Part, showable
from .shards import SHARD_SUFFIXES, Shard
from .sidecar import ENDINGS as SIDECAR_ENDINGS
from .storage import file_system, is_remote, is_web, join, parent, reading, reason, scheme, translated
from .tables import TABLE_SUFFIXES, Columns, table
from .zips import ZIP_SUFFIXES, Zip

LIST_SUFFIXES = (".txt", ".lst", ".list")
CONTAINER_SUFFIXES = (*LIST_SUFFIXES, *TABLE_SUFFIXES, *SHARD_SUFFIXES, *ZIP_SUFFIXES)
_GLOB = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Paths:
    """A few paths or URLs, each a picture."""

    paths: tuple[str, ...]

    def items(self) -> Iterator[Item]:
        return map(path_item, self.paths)

    def count(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Closed:
    """Folders that may not be looked into, such as `lost+found` of a disk: rows with their reason."""

    folders: tuple[str, ...]

    def items(self) -> Iterator[Item]:
        for folder in self.folders:
            shown = showable(folder)
            yield Item(shown, shown, error=f"{one_line(folder)} may not be read; what is in it is left out")

    def count(self) -> int:
        return len(self.folders)


@dataclass(frozen=True)
class InMemory:
    """Pictures that a program handed over: named by their number."""

    pictures: tuple[PictureSource, ...]
    first: int = 0

    def items(self) -> Iterator[Item]:
        for number, picture in enumerate(self.pictures, self.first):
            yield Item(f"#{number}", f"#{number}", picture)

    def count(self) -> int:
        return len(self.pictures)


def path_item(path: str) -> Item:
    """The item of a picture's path or URL."""
    if path[:5].lower() == "data:":
        # It may be megabytes: its beginning shows what it is, its hash tells it from others.
        shown = f"{one_line(path[:60])}... {hashlib.sha256(path.encode()).hexdigest()[:16]}"
        return Item(shown, shown, path)
    shown = showable(path)
    return Item(shown, shown, path, file=None if scheme(path) else path)


Source: TypeAlias = "str | os.PathLike[str] | Part"


def open_sources(
    sources: Iterable[Source],
    columns: Columns = Columns(),  # noqa: B008 - frozen
    *,
    chunk: int = 256,
    but: Collection[str] = (),
) -> Iterator[Part]:
    """The parts of all sources, in order, folders walked while they are asked for.

    `but`: absolute paths that no pattern matches, because the run itself writes there.
    Raises `RunError` for a source that is not there, or holds no picture.
    """
    for source in sources:
        if not isinstance(source, str | os.PathLike):
            yield source
            continue
        address = os.fspath(source)
        found = False
        for part in _parts(address, columns, chunk, but):
            found = True
            yield part
        if not found:
            raise RunError(f"there are no pictures in {one_line(address)}{_hint(address)}")


def check(sources: Sequence[Source], columns: Columns) -> None:
    """Raises `RunError` for the first source that does not begin well, before anything is loaded."""
    if not sources:
        raise RunError("give a folder, a pattern, a list, a table or shards to read pictures from")
    for source in sources:
        next(open_sources([source], columns, chunk=1))


def stdin_list() -> Paths:
    """The paths on standard input, one per line. Raises `RunError` when there are none."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # file names may be any bytes
    paths = tuple(line.rstrip("\r\n") for line in sys.stdin if line.strip())
    if not paths:
        raise RunError("there are no paths on standard input; give one per line")
    return Paths(paths)


def _parts(address: str, columns: Columns, chunk: int, but: Collection[str]) -> Iterator[Part]:
    if is_web(address):
        yield Paths((address,))
    elif braces := _BRACES.search(address):
        first, last = braces.groups()
        for number in range(int(first), int(last) + 1):
            name = f"{address[: braces.start()]}{number:0{len(first)}d}{address[braces.end() :]}"
            yield from _parts(name, columns, chunk, but)
    elif is_remote(address):
        yield from _remote(address, columns, chunk)
    else:
        yield from _local(os.path.expanduser(address), columns, chunk, but)


def _local(path: str, columns: Columns, chunk: int, but: Collection[str]) -> Iterator[Part]:
    if os.path.isdir(path):
        closed: list[str] = []
        yield from _chunks(_walk(path, closed), chunk)
        if path in closed:
            raise RunError(f"{one_line(path)} may not be read; give another folder, or ask its owner")
        if closed:
            yield Closed(tuple(closed))
    elif os.path.exists(path):
        yield from _file(path, columns, chunk)
    elif _GLOB.search(path):
        # Grouped, so that a pattern of pictures makes parts of many and not of one.
        matches = _without_sidecars(sorted(one for one in _globbed(path) if os.path.abspath(one) not in but))
        for is_container, group in itertools.groupby(matches, _is_container):
            if is_container:
                for one in group:
                    yield from _file(one, columns, chunk)
            else:
                yield from _chunks((one for one in group if os.path.isfile(one)), chunk)
    elif _is_picture(path):
        yield Paths((path,))  # one missing picture is a row of the outcome, and the others are written about
    else:
        raise RunError(f"{one_line(path)} was not found; check the path")


def _remote(address: str, columns: Columns, chunk: int) -> Iterator[Part]:
    fs, path = file_system(address)
    try:
        with translated(address):
            if _GLOB.search(address):
                found = sorted(fs.glob(path))
            elif fs.isdir(path):
                found = sorted((one for one in fs.find(path) if _is_picture(one)), key=_as_walked)
            elif fs.exists(path):
                found = [path]
            else:
                raise RunError(f"{one_line(address)} was not found; check the address")
    except OSError as error:
        raise RunError(f"{one_line(address)} cannot be read ({reason(error)})") from error
    for is_container, group in itertools.groupby(map(fs.unstrip_protocol, found), _is_container):
        if is_container:
            for one in group:
                yield from _file(one, columns, chunk)
        else:
            yield from _chunks(group, chunk)


def _as_walked(path: str) -> list[tuple[bool, str]]:
    """Sorts paths as `_walk` gives them: files before folders."""
    *folders, name = path.split("/")
    return [*((True, folder) for folder in folders), (False, name)]


def _file(path: str, columns: Columns, chunk: int) -> Iterator[Part]:
    lower = path.lower()
    if lower.endswith(SHARD_SUFFIXES):
        yield Shard(path)
    elif lower.endswith(ZIP_SUFFIXES):
        yield Zip(path)
    elif lower.endswith(TABLE_SUFFIXES):
        yield from table(path, columns, chunk)
    elif lower.endswith(LIST_SUFFIXES):
        yield from _chunks(_listed(path), chunk)
    else:
        yield Paths((path,))


def _is_container(path: str) -> bool:
    return path.lower().endswith(CONTAINER_SUFFIXES)


def _is_picture(path: str) -> bool:
    name = re.split(r"[/\\]", path)[-1]
    # A dot hides a file; macOS puts "._name.jpg", which is no picture, beside every file on a foreign disk.
    return not name.startswith(".") and looks_like_picture(name, b"")


def _walk(folder: str, closed: list[str]) -> Iterator[str]:
    """Pictures of a folder and of those in it, by name, files before folders. One folder's names are in
    memory at a time. Those that may not be read are added to `closed`."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries if entry.name[0] != ".")
    except PermissionError:
        closed.append(folder)
        return
    except OSError as error:
        raise RunError(f"{one_line(folder)} cannot be read ({reason(error)})") from error
    for name, is_folder in found:
        if not is_folder and _is_picture(name):
            yield os.path.join(folder, name)
    for name, is_folder in found:
        inner = os.path.join(folder, name)
        # A link to a folder may lead back up.
        if is_folder and not os.path.islink(inner):
            yield from _walk(inner, closed)


def _globbed(pattern: str) -> Iterator[str]:
    """What a pattern matches, hidden files apart. `**` does not follow links, which may lead back up (the module
    `glob` would go round until the path is too long)."""
    path = Path(pattern)
    plain = next(at for at, part in enumerate(path.parts) if _GLOB.search(part))
    base = Path(*path.parts[:plain])
    try:
        for found in base.glob(os.path.join(*path.parts[plain:])):
            if not any(part.startswith(".") for part in found.relative_to(base).parts):
                yield str(found)
    except ValueError as error:  # "a/**.jpg", before Python 3.13
        raise RunError(
            f"{one_line(pattern)} is no pattern: ** stands for folders, as in 'photos/**/*.jpg'"
        ) from error


def _without_sidecars(matches: Sequence[str]) -> list[str]:
    """The text file beside a picture is about that picture: no list of others."""
    pictures = {os.path.splitext(one)[0] for one in matches if _is_picture(one)}

    def is_sidecar(path: str) -> bool:
        stem, dotted = os.path.splitext(path)
        return dotted[1:] in SIDECAR_ENDINGS and stem in pictures

    return [one for one in matches if not is_sidecar(one)]


def _listed(path: str) -> Iterator[str]:
    """The lines of a list. Relative ones are looked for beside the list first, then from the current folder."""
    folder = parent(path)
    try:
        with reading(path) as file:
            for line in file:
                name = line.decode("utf-8-sig", "surrogateescape").strip()
                if name and not name.startswith("#"):
                    yield resolve(name, folder)
    except OSError as error:
        raise RunError(f"{one_line(path)} cannot be read ({reason(error)})") from error


def resolve(name: str, folder: str) -> str:
    """Where a name in a list or table leads: beside it, unless it is only in the current folder."""
    beside = join(folder, name)
    if beside != name and not is_remote(folder) and not os.path.exists(beside) and os.path.exists(name):
        return name
    return beside


def _chunks(paths: Iterable[str], size: int) -> Iterator[Part]:
    iterator = iter(paths)
    while chunk := tuple(itertools.islice(iterator, size)):
        yield Paths(chunk)


def _hint(address: str) -> str:
    if os.path.isdir(address):
        inside = {os.path.splitext(name)[1].lower() for name in os.listdir(address)}
        for suffix in (*SHARD_SUFFIXES, *TABLE_SUFFIXES):
            if suffix in inside:
                return f"; for the {suffix} files in it give '{os.path.join(address, '*' + suffix)}'"
    return ""
