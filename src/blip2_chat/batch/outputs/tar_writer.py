"""The results of a run as a WebDataset shard."""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
import tarfile
from collections.abc import Iterable
from contextlib import closing
from typing import IO, Any

from ..inputs.shards import SHARD_SUFFIXES
from ..result import Result
from .outcome import PicturedResult

_SUFFIXES = "|".join(re.escape(suffix) for suffix in sorted(SHARD_SUFFIXES, key=len, reverse=True))
_MEMBER = re.compile(rf"(?P<shard>.*?)(?:{_SUFFIXES})/(?P<member>.+?)(?: \(\d+\))?", re.IGNORECASE)


def write_tar(file: IO[bytes], results: Iterable[Result]) -> None:
    """WebDataset members: `key.json` with the whole row, `key.txt` with the caption, and for a `PicturedResult`
    the picture. Keys are those of the source shard, so that the two can be joined; other pictures are
    numbered."""
    archive: Any  # typeshed does not have `members`
    with (
        closing(_Names()) as names,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for number, one in enumerate(results):
            row = one.as_row()
            picture, ending = row.pop("picture", None), row.pop("ending", "")
            base = names.unique(one.path, number)
            members = [("json", json.dumps(row, ensure_ascii=False).encode())]
            if one.error is None:
                members.append(("txt", one.text.encode()))
            if isinstance(one, PicturedResult) and picture is not None:
                members.insert(0, (ending.lstrip("."), picture))
            for kind, data in members:
                info = tarfile.TarInfo(f"{base}.{kind}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            archive.members.clear()


class _Names:
    """Names of members without their type: `d/0001` for `shards/s-00.tar/d/0001.jpg`, and `0001.left` for
    `0001.left.jpg`, another picture of sample 0001. Stored in a temporary database, because a collection may be
    large."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("")
        self._db.execute("CREATE TABLE names (name TEXT PRIMARY KEY, shard TEXT) WITHOUT ROWID")

    def close(self) -> None:
        self._db.close()

    def unique(self, path: str, number: int) -> str:
        found = _MEMBER.fullmatch(path)
        if found is None:
            return self._first([f"{number:09d}", f"{number:09d}-"], "")
        shard, member = found["shard"], _safe(found["member"])
        name, ending = os.path.splitext(member)
        taken = self._db.execute("SELECT shard FROM names WHERE name = ?", (name,)).fetchone()
        if taken is None or taken[0] == shard:
            # 0001.jpg and 0001.png of the same sample.
            return self._first([name, f"{name}{ending}", f"{name}-{number:09d}"], shard)
        # Another shard has the same keys.
        inner = os.path.basename(shard)
        return self._first(
            [f"{inner}/{name}", f"{inner}/{name}{ending}", f"{inner}/{name}-{number:09d}"], shard
        )

    def _first(self, names: Iterable[str], shard: str) -> str:
        """The first name that is not used yet."""
        name = ""
        for name in names:
            if self._db.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (name, shard)).rowcount:
                break
        return name


def _safe(name: str) -> str:
    """A name that stays inside the folder where the tar is unpacked."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    return "/".join(parts) or "picture"
