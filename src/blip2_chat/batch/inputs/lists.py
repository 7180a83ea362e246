"""Lists of pictures: one path or URL per line."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO

from ...images.naming import one_line
from ...system.text_files import encoding
from ..errors import RunError, UnreadableError
from ..storage import exists, is_remote, is_web, join, parent, reading, reason

LIST_SUFFIXES = (".txt", ".lst", ".list")


def listed(path: str, passed: Counter[str]) -> Iterator[str]:
    """The pictures of a list. Relative paths are looked up next to the list first, then in the current folder.

    A line is a path exactly as written, because names may begin with `#` or end in a space. Only if no such
    file exists are surrounding spaces and quotes removed, and a line with `#` is a comment, counted in
    `passed`. Raises `UnreadableError`.
    """
    folder = parent(path)
    try:
        with reading(path) as file:
            for line in _lines(file):
                name = _entry(line, folder)
                if name is not None:
                    yield name
                elif line.lstrip().startswith("#"):
                    passed["comment line"] += 1
                elif line.strip():
                    yield resolve(line, folder)
    except UnicodeError as error:
        raise UnreadableError(
            f"{one_line(path)} is not text ({one_line(str(error))}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise UnreadableError(f"{one_line(path)} cannot be read ({reason(error)})") from error


def stdin_lines() -> tuple[str, ...]:
    """The paths on standard input, one per line. Raises `RunError` if there are none."""
    raw: Iterable[str] = sys.stdin
    if isinstance(sys.stdin, io.TextIOWrapper):
        raw = _lines(io.BytesIO(sys.stdin.buffer.read()))
    paths = tuple(_entry(line, "") or line for line in (one.rstrip("\r\n") for one in raw) if line.strip())
    if not paths:
        raise RunError("there are no paths on standard input; give one per line")
    return paths


def resolve(name: str, folder: str) -> str:
    """Resolves a name in a list or table: next to it, unless it exists only in the current folder."""
    beside = join(folder, name)
    if beside != name and not is_remote(folder) and not os.path.exists(beside) and os.path.exists(name):
        return name
    return beside


def _lines(file: IO[bytes]) -> Iterator[str]:
    head = file.read(4)
    file.seek(0)
    # File names may be any bytes. Only a line feed ends a line, because other line separators may occur in
    # names.
    text = io.TextIOWrapper(file, encoding(head), "surrogateescape", newline="\n")
    try:
        for line in text:
            yield line.rstrip("\r\n")
    finally:
        with contextlib.suppress(ValueError):  # already closed by its owner
            text.detach()


def _entry(line: str, folder: str) -> str | None:
    """The path or URL of a line if it is certain; None if it may be a comment or does not exist."""
    bare = line.strip()
    if is_web(bare):
        return bare
    if bare == line and line[:1] not in ("", "#", '"', "'"):
        return resolve(line, folder)
    unquoted = bare[1:-1] if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'" else bare
    for name in (line, bare, unquoted):
        if name and exists(where := resolve(name, folder)):
            return where
    return None
