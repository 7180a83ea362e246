"""The stored results of a run: every result is on disk before it is reported.

One SQLite file, which has exactly what is needed: one transaction per batch that is either complete or absent
after a kill or power failure (synchronous=EXTRA), a lock that ends with its process, and look-ups by key and by
content without loading the collection into memory. The write-ahead log is not used: it needs memory shared
between processes, which network drives do not have.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import Parameter
from ..images.naming import one_line
from .errors import RunError
from .items import Item, Position, is_same, packed, unpacked
from .result import Result

_FORMAT = "blip2-chat run 1"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, ok INTEGER NOT NULL, digest TEXT, result TEXT NOT NULL, sidecar TEXT, stamp TEXT,
    metadata TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_digest ON results (digest) WHERE ok;
"""
# The items of this run's sources, in order: rebuilt by each run, in a temporary file that is never synced.
_LISTING = """
CREATE TEMP TABLE listing (
    part INTEGER, place INTEGER, key TEXT NOT NULL, path TEXT NOT NULL, file BLOB, stamp TEXT,
    PRIMARY KEY (part, place)
) WITHOUT ROWID;
CREATE INDEX temp.listed ON listing (key);
"""


@dataclass(frozen=True)
class Row:
    """A picture of this run's sources with its result."""

    key: str
    file: str | None
    result: Result
    sidecar: str | None
    position: Position
    stamp: str | None


@dataclass(frozen=True)
class Counts:
    """Counts of this run's rows: with a result, failed, and duplicates of another picture."""

    rows: int
    failed: int
    duplicates: int


class Journal:
    """Results by key. Thread-safe; only one process can open a journal at a time."""

    def __init__(self, path: Path | None) -> None:
        """Opens or creates the file; None: a temporary one, deleted on close. Raises `RunError`."""
        self.path = path
        self.changed = 0  # listed files that are not what they were when they got their result
        self._lock = threading.RLock()
        if path is not None and path.exists() and not path.is_file():
            raise RunError(
                f"{path} is not a file; give another ", Parameter("progress"), " or ", Parameter("out")
            )
        try:
            self._db = sqlite3.connect(
                path or "", isolation_level=None, timeout=0.5, check_same_thread=False, cached_statements=32
            )
        except sqlite3.Error as error:
            raise self._trouble(error) from error
        try:
            with self._told():
                self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._db.execute("PRAGMA journal_mode = TRUNCATE")
                self._db.execute("PRAGMA synchronous = EXTRA")
                # On macOS, fsync leaves data in the drive's cache; this pragma flushes it.
                self._db.execute("PRAGMA fullfsync = ON")
                # We create no views or triggers; a foreign one might run forever.
                foreign = "SELECT name FROM sqlite_master WHERE type NOT IN ('table', 'index')"
                if self._db.execute(foreign).fetchone():
                    raise self._damaged("it has views or triggers")
                # A flipped bit in a page or index may hide rows without any error.
                sound = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
                if sound != "ok":
                    raise self._damaged(sound)
                self._db.executescript(f"BEGIN EXCLUSIVE;{_SCHEMA}COMMIT;")
                self._db.executescript(_LISTING)
                columns = [row[1] for row in self._db.execute("PRAGMA table_info(results)")]
                for added in ("stamp", "metadata"):
                    if added not in columns:  # started before results had it
                        self._db.execute(f"ALTER TABLE results ADD COLUMN {added} TEXT")
            if self.about("format") not in (None, _FORMAT):
                raise RunError(
                    f"{path} was written by another version of blip2-chat: give ",
                    Parameter("fresh", True),
                    " to start over",
                )
            self.note({"format": _FORMAT})
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        with self._lock:
            # Releases the lock properly, which removes the empty rollback file next to the journal.
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA locking_mode = NORMAL")
                self._db.execute("PRAGMA journal_mode = DELETE")
                self._db.execute("SELECT 1 FROM about").fetchone()
            self._db.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def about(self, name: str) -> Any:
        """The note with this name, or None."""
        with self._told():
            found = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
            return None if found is None else json.loads(found[0])

    def noted(self, name: str) -> dict[str, Any]:
        """A note that is a dict; empty if there is none. Raises `RunError` for other values."""
        found = self.about(name)
        if found is not None and not isinstance(found, dict):
            raise self._damaged(f"its {name} are {found!r}")
        return found or {}

    def note(self, values: Mapping[str, Any]) -> None:
        """Stores a note about the run, such as its settings."""
        with self._transaction():
            rows = [(name, json.dumps(value)) for name, value in values.items()]
            self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", rows)

    def __len__(self) -> int:
        with self._told():
            return int(self._db.execute("SELECT count(*) FROM results").fetchone()[0])

    def forget_failed(self) -> int:
        """Removes failed results, so that their pictures are tried again -> their number."""
        with self._transaction():
            return self._db.execute("DELETE FROM results WHERE NOT ok").rowcount

    def forget_all(self) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM results")
            self._db.execute("DELETE FROM about WHERE name <> 'format'")

    def list(self, items: Iterable[Item]) -> list[Item]:
        """Appends items to this run's order -> those that are new and have no result, or whose file has changed
        since their result."""
        new = []
        with self._transaction():
            for item in items:
                listed = self._db.execute("SELECT 1 FROM listing WHERE key = ?", (item.key,)).fetchone()
                kept = self._db.execute("SELECT stamp FROM results WHERE key = ?", (item.key,)).fetchone()
                self._db.execute(
                    "INSERT OR IGNORE INTO listing VALUES (?, ?, ?, ?, ?, ?)",
                    (*item.position, item.key, item.path, packed(item.file), item.stamp),
                )
                if not listed and (kept is None or not is_same(kept[0], item.stamp)):
                    new.append(item)
                    self.changed += kept is not None
        return new

    def restore(self, results: Iterable[tuple[str, str | None, Result]]) -> None:
        """Takes up what is kept elsewhere: (key, stamp, result) of pictures that are done."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO results (key, ok, digest, result, stamp) VALUES (?, ?, ?, ?, ?)",
                (
                    (
                        key,
                        result.error is None,
                        result.digest,
                        result.to_json(),
                        stamp or "",
                    )
                    for key, stamp, result in results
                ),
            )

    def unlisted(self) -> Iterator[str]:
        """The keys with a result that are not among this run's pictures."""
        with self._told():
            found = self._db.execute(
                "SELECT key FROM results WHERE key NOT IN (SELECT key FROM listing)"
            ).fetchall()
        return (key for (key,) in found)

    def has(self, key: str) -> bool:
        """Whether a key has a result."""
        with self._told():
            return bool(self._db.execute("SELECT 1 FROM results WHERE key = ?", (key,)).fetchone())

    def stamps(self) -> dict[str, str | None]:
        """The keys of all results, with what `is_same` compares."""
        with self._told():
            return dict(self._db.execute("SELECT key, stamp FROM results").fetchall())

    def commit(self, results: Iterable[tuple[str, Result]]) -> None:
        """Stores a batch in one transaction. A key that already has a result for the same file keeps it."""
        rows = [(key, result.error is None, result.digest, result.to_json()) for key, result in results]
        with self._transaction():
            # A missing file is stored with an empty stamp, so its later appearance counts as a change.
            self._db.executemany(
                "INSERT INTO results (key, ok, digest, result, stamp) VALUES (?1, ?2, ?3, ?4,"
                " coalesce((SELECT stamp FROM listing WHERE key = ?1 LIMIT 1), '')) ON CONFLICT (key) DO UPDATE"
                " SET (ok, digest, result, stamp) = (excluded.ok, excluded.digest, excluded.result, excluded.stamp)"
                " WHERE results.stamp <> excluded.stamp",
                rows,
            )

    def same_content(self, digest: str) -> Result | None:
        """A successful result for the same pixels, or None."""
        with self._told():
            found = self._db.execute(
                "SELECT result FROM results WHERE digest = ? AND ok LIMIT 1", (digest,)
            ).fetchone()
            return None if found is None else Result.from_json(found[0])

    def located(self, batch: Iterable[tuple[str, Result]]) -> Iterator[tuple[str, str | None, Result]]:
        """Each result of a batch with the local paths that are listed under its key."""
        for key, result in batch:
            with self._told():
                files = self._db.execute("SELECT file FROM listing WHERE key = ?", (key,)).fetchall()
            yield from ((key, unpacked(file), result) for (file,) in files)

    def set_sidecars(self, marks: Iterable[tuple[str, str | None]]) -> None:
        """Stores, for each key, the hash of its sidecar file."""
        with self._transaction():
            self._db.executemany(
                "UPDATE results SET sidecar = ?2 WHERE key = ?1", [(key, mark) for key, mark in marks]
            )

    def sidecar(self, key: str) -> str | None:
        """The hashes stored by `set_sidecars`."""
        with self._told():
            found = self._db.execute("SELECT sidecar FROM results WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def set_metadata(self, marks: Iterable[tuple[str, str, str | None]]) -> None:
        """Stores, for each key, what tells whether its metadata is written, and unless it is None, the stamp of the
        file that this made: the result is still its result."""
        with self._transaction():
            for key, mark, stamp in marks:
                self._db.execute("UPDATE results SET metadata = ?2 WHERE key = ?1", (key, mark))
                if stamp is not None:
                    for table in ("results", "listing"):
                        self._db.execute(f"UPDATE {table} SET stamp = ?2 WHERE key = ?1", (key, stamp))

    def metadata(self, key: str) -> str | None:
        """What `set_metadata` stored."""
        with self._told():
            found = self._db.execute("SELECT metadata FROM results WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def counts(self) -> Counts:
        with self._told():
            rows, failed, distinct = self._db.execute(
                "SELECT count(*), count(*) FILTER (WHERE NOT ok), count(DISTINCT digest) FILTER (WHERE ok)"
                " FROM listing JOIN results USING (key)"
            ).fetchone()
        return Counts(rows, failed, rows - failed - distinct)

    def failures(self, most: int) -> tuple[tuple[str, str], ...]:
        """(path, error) of this run's first failed pictures."""
        with self._told():
            found = self._db.execute(
                "SELECT l.path, r.result FROM listing l JOIN results r USING (key) WHERE NOT r.ok"
                " ORDER BY l.part, l.place LIMIT ?",
                (most,),
            ).fetchall()
            return tuple((path, Result.from_json(result).error or "") for path, result in found)

    def rows(self, block: int = 500) -> Iterator[Row]:
        """The rows of this run that have a result, in the order of the sources, a few in memory at a time."""
        with self._told():
            # The original among duplicates is the first in this order, not the first that was done.
            self._db.executescript(
                "DROP TABLE IF EXISTS temp.firsts;"
                "CREATE TEMP TABLE firsts (digest TEXT PRIMARY KEY, part INTEGER, place INTEGER) WITHOUT ROWID;"
                "INSERT OR IGNORE INTO temp.firsts SELECT digest, part, place FROM listing JOIN results USING (key)"
                " WHERE ok ORDER BY part, place;"
            )
        after = (-1, -1)
        while True:
            with self._told():
                found = self._db.execute(
                    "SELECT l.part, l.place, l.key, l.file, l.path, r.result, r.sidecar, l.stamp, o.path"
                    " FROM listing l JOIN results r USING (key)"
                    " LEFT JOIN firsts f ON r.ok AND f.digest = r.digest"
                    " LEFT JOIN listing o ON o.part = f.part AND o.place = f.place"
                    "  AND (o.part, o.place) <> (l.part, l.place)"
                    " WHERE (l.part, l.place) > (?, ?) ORDER BY l.part, l.place LIMIT ?",
                    (*after, block),
                ).fetchall()
            if not found:
                return
            for part, place, key, file, path, result, sidecar, stamp, first in found:
                after = (part, place)
                with self._told():
                    made = replace(Result.from_json(result), path=path, duplicate_of=first)
                yield Row(key, unpacked(file), made, sidecar, after, stamp)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Reports SQLite's errors, and values that no run wrote, in one line."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise self._trouble(error) from error
            except (ValueError, TypeError, RecursionError, OverflowError) as error:
                raise self._damaged(str(error)) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # If the disk is full, SQLite has already rolled back.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _trouble(self, error: sqlite3.Error) -> RunError:
        what = str(error)
        if "locked" in what:
            return RunError(
                f"{self.path} is in use: another run is writing it; wait for it, or give another ",
                Parameter("out"),
            )
        if "full" in what:
            return RunError(
                "the disk is full; what was done is saved: free some space and run the same command again"
            )
        # Messages of SQLite for damage: a wrong header, a malformed page, a different table.
        signs = (
            "not a database",
            "malformed",
            "no such",
            "no column",
            "UTF-8",
            "datatype",
            "constraint",
            "file format",
        )
        if any(sign in what for sign in signs) or not isinstance(error, sqlite3.OperationalError):
            return self._damaged(what)
        return RunError(
            f"{self.path} cannot be opened or written ({one_line(what)}); what was done is saved: "
            "run the same command again when it can be"
        )

    def _damaged(self, what: str) -> RunError:
        return RunError(
            f"{self.path} is damaged, or not a progress file of blip2-chat ({one_line(what)}). Move it away to start "
            "over; what was written before is kept"
        )
