"""The pictures in folders, and those that match a pattern."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...images import is_picture_file
from ...images.naming import one_line
from ..errors import RunError
from ..items import is_excluded
from ..storage import reason
from .passed_over import kind_of

SIDECAR_ENDINGS = ("txt", "caption")
_METADATA_ENDING = "xmp"
GLOB = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_MOST_IN_BRACES = 1_000_000


@dataclass
class Walk:
    """Pictures of a folder and its subfolders by name, files before folders, without hidden ones. Only the
    names of one folder are in memory at a time.

    Linked folders come last, each once, without those already read and without parents of the folder.
    exclude: patterns of files and folders to leave out. own: absolute paths of files and folders that the run itself
    writes.
    passed: counts what is passed over. closed: gets the folders that may not be read.
    """

    root: str
    exclude: Sequence[str] = ()
    own: Collection[str] = ()
    passed: Counter[str] = field(default_factory=Counter)
    closed: list[str] = field(default_factory=list)
    _seen: set[tuple[int, int]] = field(default_factory=set)
    _links: deque[tuple[str, str]] = field(default_factory=deque)

    def __iter__(self) -> Iterator[str]:
        yield from self._folder(self.root, "")
        inside = os.path.realpath(self.root)
        while self._links:
            path, name = self._links.popleft()
            if _is_within(inside, os.path.realpath(path)):
                self.passed["repeated folder link"] += 1
            else:
                yield from self._folder(path, name)

    def _folder(self, folder: str, name: str) -> Iterator[str]:
        """`name`: its path relative to the root."""
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in self._seen:
                self.passed["repeated folder link"] += 1
                return
            with os.scandir(folder) as entries:
                found = sorted(
                    (one.name, one.is_dir(), one.is_symlink()) for one in entries if one.name[0] != "."
                )
        except PermissionError:
            self.closed.append(folder)
            return
        except OSError as error:
            raise RunError(f"{one_line(folder)} cannot be read ({reason(error)})") from error
        self._seen.add((status.st_dev, status.st_ino))
        kept = []
        for entry, is_folder, is_link in found:
            if is_folder and os.path.abspath(os.path.join(folder, entry)) in self.own:
                continue
            if is_excluded(os.path.join(name, entry), self.exclude):
                self.passed["excluded folder" if is_folder else "excluded file"] += 1
            else:
                kept.append((entry, is_folder, is_link))
        files = [entry for entry, is_folder, _ in kept if not is_folder]
        pictures = [entry for entry in files if is_picture_file(os.path.join(folder, entry))]
        self._count_others(folder, files, pictures)
        for entry in pictures:
            yield os.path.join(folder, entry)
        for entry, is_folder, is_link in kept:
            inner = os.path.join(folder, entry)
            if is_folder and is_link:
                self._links.append((inner, os.path.join(name, entry)))
            elif is_folder:
                yield from self._folder(inner, os.path.join(name, entry))

    def _count_others(self, folder: str, files: Sequence[str], pictures: Sequence[str]) -> None:
        others = set(files).difference(pictures)
        stems = {os.path.splitext(entry)[0] for entry in pictures}.union(pictures)
        for entry in others:
            if not is_sidecar(entry, stems) and os.path.abspath(os.path.join(folder, entry)) not in self.own:
                self.passed[kind_of(entry)] += 1


def is_sidecar(path: str, pictures: Collection[str]) -> bool:
    """Whether a text or .xmp file belongs to a picture in the same folder. `pictures`: their names, with and without
    extension."""
    stem, dotted = os.path.splitext(path)
    return dotted[1:] in (*SIDECAR_ENDINGS, _METADATA_ENDING) and stem in pictures


def globbed(pattern: str) -> Iterator[str]:
    """What a pattern matches, without hidden files. Leading folders that exist under their literal name are
    taken literally (`photos[1]/*.jpg`). `**` does not follow links, which may lead back up (the module `glob`
    would loop until the path is too long)."""
    path = Path(pattern)
    plain = next(at for at, part in enumerate(path.parts) if GLOB.search(part))
    while plain < len(path.parts) - 1 and os.path.isdir(Path(*path.parts[: plain + 1])):
        plain += 1
        while plain < len(path.parts) and not GLOB.search(path.parts[plain]):
            plain += 1
    base = Path(*path.parts[:plain])
    if plain == len(path.parts):
        if base.exists():
            yield str(base)
        return
    try:
        for found in base.glob(os.path.join(*path.parts[plain:])):
            if not any(part.startswith(".") for part in found.relative_to(base).parts):
                yield str(found)
    except ValueError as error:  # "a/**.jpg", before Python 3.13
        raise RunError(
            f"{one_line(pattern)} is not a pattern: ** stands for folders, as in 'photos/**/*.jpg'"
        ) from error


def in_braces(address: str) -> Iterator[str] | None:
    """Expands `s-{00..12}.tar`; None if there is nothing to expand, or if a file or folder of that name exists.
    Raises `RunError` for a million paths or more."""
    for braces in _BRACES.finditer(address):
        end = min(
            (at for at in (address.find(sep, braces.end()) for sep in "/\\") if at >= 0), default=len(address)
        )
        if os.path.exists(os.path.expanduser(address[:end])):
            continue
        first, last = braces.groups()
        if abs(int(last) - int(first)) >= _MOST_IN_BRACES:
            raise RunError(f"{one_line(address)} stands for more than a million files; give fewer")
        step = 1 if int(first) <= int(last) else -1
        return (
            f"{address[: braces.start()]}{number:0{len(first)}d}{address[braces.end() :]}"
            for number in range(int(first), int(last) + step, step)
        )
    return None


def _is_within(path: str, folder: str) -> bool:
    try:
        return os.path.commonpath([path, folder]) == folder
    except ValueError:  # on another drive
        return False
