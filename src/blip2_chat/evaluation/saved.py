"""A file of JSON lines that a run appends its results to, and resumes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import Blip2ChatError


class SavedRows:
    """The first line says what made the results; every other line is one of them.

    A file with another first line belongs to another run: `Blip2ChatError`, as for one that cannot be read or
    written.
    """

    def __init__(self, path: Path, heading: Mapping[str, Any]) -> None:
        self._path = path
        self._heading = dict(heading)

    def earlier(self) -> Iterator[dict[str, Any]]:
        """What an earlier run saved, one row at a time. A line without an end, which a kill cut off, is removed."""
        path = self._path
        try:
            if not path.exists() or path.stat().st_size == 0:
                return
            _cut_to_whole_lines(path)
            with path.open(encoding="utf-8") as lines:
                self._check(self._row(next(lines, "null")))
                for line in lines:
                    if line.strip():
                        yield self._row(line)
        except (OSError, UnicodeError) as error:
            raise Blip2ChatError(f"{path} cannot be read: {error}") from None

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        try:
            is_new = not self._path.exists() or self._path.stat().st_size == 0
            with self._path.open("a", encoding="utf-8", newline="\n") as file:
                for row in [*([self._heading] if is_new else []), *rows]:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise Blip2ChatError(f"{self._path} cannot be written: {error.strerror or error}") from None

    def foreign(self) -> Blip2ChatError:
        """That the file holds something else."""
        return Blip2ChatError(f"{self._path} is not a file of answers; choose another name")

    def _row(self, line: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            raise self.foreign() from None
        if not isinstance(row, dict):
            raise self.foreign()
        return row

    def _check(self, other: Mapping[str, Any]) -> None:
        for name, value in self._heading.items():
            if other.get(name) != value:
                raise Blip2ChatError(
                    f"{self._path} has answers of another {name} ({other.get(name)}); choose another name"
                )


def _cut_to_whole_lines(path: Path) -> None:
    """Looks back from the end for the last end of a line, because files may be large."""
    with path.open("rb+") as file:
        end = at = file.seek(0, 2)
        while at:
            start = max(0, at - 65536)
            file.seek(start)
            found = file.read(at - start).rfind(b"\n")
            if found >= 0:
                at = start + found + 1
                break
            at = start
        # Without any end of a line it is a file of somebody else's, or a first line that was cut off.
        if 0 < at < end:
            file.truncate(at)
