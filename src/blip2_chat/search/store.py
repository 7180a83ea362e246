"""An index on disk: a LanceDB database with one row per picture, in a folder or behind a URL (s3://bucket/photos.index).

Every write is a new version of the table, complete or absent after a kill, so the table itself is the journal of
indexing. The embeddings of a picture are one multivector: LanceDB's MaxSim of a text's embedding with them, in the
cosine metric, is ITC's score, the similarity of the picture's best query.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ..batch.errors import RunError
from ..batch.items import packed, unpacked
from ..batch.storage import is_remote
from ..engines.engine import Floats
from ..errors import MissingExtraError
from ..images.naming import one_line
from .multivectors import column_of, vectors_of

_PICTURES = "pictures"
_ABOUT = "about"
_FORMAT = 1
# What is read of a row unless more is asked for; the embeddings and the rest are larger.
_SMALL = ("key", "path", "file", "stamp", "digest", "width", "height", "error")
_KEYS_AT_ONCE = 500
# Versions are kept this long: another process may be reading one.
_KEPT = timedelta(minutes=10)
_ROWS_PER_READ = 1024


@dataclass(frozen=True)
class Maker:
    """The model that made an index. `identity` is `Retriever.identity`: embeddings of another cannot be compared.

    queries, size: Q and E of a picture's embeddings [Q, E]. features: the shape of the encoder's output.
    """

    name: str
    engine: str
    precision: str
    identity: str
    queries: int
    size: int
    features: tuple[int, int]
    revision: str | None = None
    processor: str | None = None


@dataclass(frozen=True)
class Approximate:
    """The approximate search that an index has, and the share of the exact results that it finds.

    probes: parts of the index that a query looks through, of `partitions`. recall: of the first `of` results.
    """

    partitions: int
    probes: int
    recall: float
    of: int
    pictures: int


@dataclass(frozen=True)
class About:
    """What an index says of itself."""

    maker: Maker
    sources: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    column: str | None = None
    name_column: str | None = None
    keeps_features: bool = False
    approximate: Approximate | None = None


@dataclass(frozen=True, eq=False)
class Entry:
    """A picture of an index.

    key, path, stamp: as a run's items have them. file: its absolute path, if it is a file of this machine.
    digest, width, height: of its pixels; None where there is an `error`.
    vectors: float32 [Q, E]; features: float32 [positions, width], the encoder's output; reading: the picture as the
    model reads it, as PNG, of one that is no file. All three only if they were asked for and are there.
    """

    key: str
    path: str
    file: str | None = None
    stamp: str | None = None
    digest: str | None = None
    width: int | None = None
    height: int | None = None
    error: str | None = None
    vectors: Floats | None = None
    features: Floats | None = None
    reading: bytes | None = None


class Store:
    """An open index. Thread-safe. Made by `Store.create` or `Store.open`."""

    def __init__(self, address: str, database: Any, table: Any) -> None:
        self.address = address
        self._database = database
        self._table = table
        self._maker: Maker | None = None

    @classmethod
    def create(cls, address: str, about: About) -> Store:
        """A new, empty index, in the place of one that is there."""
        import pyarrow as pa

        vectors = pa.list_(pa.list_(pa.float16(), about.maker.size))
        texts = [(name, pa.string()) for name in ("key", "path", "stamp", "digest", "error")]
        numbers = [(name, pa.int32()) for name in ("width", "height")]
        binary = [("file", pa.binary()), ("features", pa.large_binary()), ("reading", pa.large_binary())]
        schema = pa.schema([*texts, *numbers, *binary, ("vectors", vectors)])
        with _told(address):
            database = _connect(address)
            table = database.create_table(_PICTURES, schema=schema, mode="overwrite")
            store = cls(address, database, table)
            store.describe(about)
        return store

    @classmethod
    def open(cls, address: str) -> Store:
        """Raises `RunError` if there is no index."""
        found = cls.find(address)
        if found is None:
            raise RunError(f"there is no index {one_line(address)}; the command `blip2-chat index` makes one")
        return found

    @classmethod
    def find(cls, address: str) -> Store | None:
        """The index at an address; None if there is none. Raises `RunError` for anything else that is there."""
        local = None if is_remote(address) else Path(address)
        if local is not None and not local.exists():
            return None
        if local is not None and not local.is_dir():
            raise RunError(f"{one_line(address)} is a file, and an index is a folder; give another name")
        with _told(address):
            database = _connect(address)
            names = set(database.list_tables().tables)
            if not {_PICTURES, _ABOUT} <= names:
                others = local is not None and any(one.name[0] != "." for one in local.iterdir())
                if names or others:
                    # A kill between the two tables leaves one of ours, and no picture.
                    if names == {_PICTURES} and database.open_table(_PICTURES).count_rows() == 0:
                        return None
                    raise RunError(
                        f"{one_line(address)} is a folder of something else than an index; give another name"
                    )
                return None
            return cls(address, database, database.open_table(_PICTURES))

    def about(self) -> About:
        with _told(self.address):
            rows = self._database.open_table(_ABOUT).to_arrow().to_pylist()
        try:
            return _about(json.loads(rows[0]["value"]))
        except (LookupError, TypeError, ValueError) as error:
            raise RunError(
                f"{one_line(self.address)} cannot be read as an index ({one_line(str(error))}); make it again"
            ) from error

    def describe(self, about: About) -> None:
        value = json.dumps({"format": _FORMAT, **asdict(about)})
        with _told(self.address):
            self._database.create_table(_ABOUT, [{"value": value}], mode="overwrite")

    def change(self, **fields: Any) -> About:
        """Changes what the index says of itself."""
        present = self.about()
        about = replace(present, **fields)
        if about != present:
            self.describe(about)
        return about

    # Pictures

    def __len__(self) -> int:
        """The number of pictures that can be found: without those that could not be opened."""
        with _told(self.address):
            return int(self._table.count_rows("error IS NULL"))

    def entries(self) -> Iterator[Entry]:
        """All pictures, without their embeddings, a few in memory at a time."""
        with _told(self.address):
            query = self._table.search().select(list(_SMALL)).to_batches(batch_size=_ROWS_PER_READ)
            for batch in query:
                yield from map(_entry, batch.to_pylist())

    def embeddings(self) -> Iterator[tuple[list[str], Floats]]:
        """The digests of the pictures that can be found, and their embeddings, float16 [B, Q, E]; a few in memory at
        a time."""
        maker = self.about().maker
        with _told(self.address):
            query = self._table.search().where("error IS NULL").select(["digest", "vectors"])
            for batch in query.to_batches(batch_size=_ROWS_PER_READ):
                yield (
                    batch.column("digest").to_pylist(),
                    vectors_of(batch.column("vectors"), maker.queries, maker.size),
                )

    def put(self, entries: Sequence[Entry], *, replacing: bool) -> None:
        """Adds pictures in one step, in the place of those with the same keys if there may be any (`replacing`)."""
        rows = self._rows(entries)
        with _told(self.address):
            if replacing:
                merge = self._table.merge_insert("key")
                merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)
            else:
                self._table.add(rows)

    def remove(self, keys: Iterable[str]) -> int:
        """Takes pictures out of the index -> their number."""
        every = list(keys)
        with _told(self.address):
            for first in range(0, len(every), _KEYS_AT_ONCE):
                self._table.delete(
                    f"key IN ({', '.join(map(_quoted, every[first : first + _KEYS_AT_ONCE]))})"
                )
        return len(every)

    def with_digest(self, digest: str) -> Entry | None:
        """A picture with these pixels, with all that is stored of it."""
        return next(iter(self._where(f"digest = {_quoted(digest)} AND error IS NULL", limit=1)), None)

    def whole(
        self, keys: Sequence[str], columns: Sequence[str] = ("features", "reading")
    ) -> dict[str, Entry]:
        """Pictures by their keys, with these columns as well."""
        found = {}
        for first in range(0, len(keys), _KEYS_AT_ONCE):
            some = ", ".join(map(_quoted, keys[first : first + _KEYS_AT_ONCE]))
            found.update({one.key: one for one in self._where(f"key IN ({some})", columns)})
        return found

    def nearest(
        self, vectors: Floats, limit: int, approximate: Approximate | None = None
    ) -> list[tuple[Entry, float]]:
        """The pictures with the greatest MaxSim to vectors [V, E], best first: the sum over V of the similarity of
        the nearest of a picture's embeddings. Exact, unless the parameters of an approximate search are given."""
        columns = [*_SMALL, "_distance"]
        with _told(self.address):
            query = self._table.search(np.asarray(vectors, np.float32), vector_column_name="vectors")
            query = query.distance_type("cosine").select(columns)
            if approximate is None:
                query = query.bypass_vector_index()
            else:
                query = query.nprobes(approximate.probes).refine_factor(_REFINED)
            # LanceDB takes no number that is larger than 32 bits.
            rows = query.limit(min(limit, max(1, self._table.count_rows()))).to_list()
        # LanceDB's distance is the sum of 1 - similarity.
        return [(_entry(row), len(vectors) - float(row["_distance"])) for row in rows]

    def partition(self, partitions: int) -> None:
        """Makes the approximate search anew: the embeddings in so many parts, 8 bits a number."""
        from lancedb.index import IvfSq

        with _told(self.address):
            self._table.create_index(
                "vectors",
                config=IvfSq(
                    distance_type="cosine", num_partitions=partitions, sample_rate=64, max_iterations=15
                ),
                replace=True,
            )

    def tidy(self) -> None:
        """Joins the small pieces that batches left, adds new pictures to the approximate search, and removes what
        earlier versions held."""
        with _told(self.address):
            self._table.optimize(cleanup_older_than=_KEPT)

    def refresh(self) -> None:
        """Shows what another process has written since."""
        with _told(self.address):
            self._table.checkout_latest()

    def _where(
        self,
        condition: str,
        columns: Sequence[str] = ("features", "reading", "vectors"),
        limit: int | None = None,
    ) -> list[Entry]:
        self._maker = self._maker or self.about().maker
        with _told(self.address):
            query = self._table.search().where(condition).select([*_SMALL, *columns])
            rows = (query if limit is None else query.limit(limit)).to_list()
        return [_entry(row, self._maker) for row in rows]

    def _rows(self, entries: Sequence[Entry]) -> Any:
        import pyarrow as pa

        schema = self._table.schema
        columns: dict[str, Any] = {
            name: [getattr(one, name) for one in entries] for name in _SMALL if name != "file"
        }
        columns["file"] = [packed(one.file) for one in entries]
        columns["reading"] = [one.reading for one in entries]
        columns["features"] = [
            None if one.features is None else one.features.astype(np.float16).tobytes() for one in entries
        ]
        arrays = {name: pa.array(column, schema.field(name).type) for name, column in columns.items()}
        arrays["vectors"] = column_of([one.vectors for one in entries], schema.field("vectors").type)
        return pa.table(arrays).select(schema.names)


# Candidates of the approximate search whose similarity is computed exactly, per result.
_REFINED = 3


def _about(values: dict[str, Any]) -> About:
    """The inverse of what `describe` writes. Raises `ValueError`, `TypeError` or `LookupError` for anything else."""
    if values["format"] != _FORMAT:
        raise ValueError("another version of blip2-chat wrote it")
    maker, approximate = dict(values["maker"]), values["approximate"]
    rows, width = maker.pop("features")
    return About(
        Maker(features=(rows, width), **maker),
        tuple(values["sources"]),
        tuple(values["exclude"]),
        values["column"],
        values["name_column"],
        keeps_features=values["keeps_features"],
        approximate=None if approximate is None else Approximate(**approximate),
    )


def require_lancedb() -> Any:
    """`lancedb`, or `MissingExtraError`."""
    os.environ.setdefault(
        "LANCEDB_LOG", "error"
    )  # its warnings about tables that are made are none for users
    try:
        import lancedb
        import pyarrow  # noqa: F401 - it comes with lancedb
    except ImportError:
        raise MissingExtraError("an index of pictures", "search") from None
    return lancedb


def _connect(address: str) -> Any:
    lancedb = require_lancedb()
    options = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if address.lower().startswith(("s3:", "s3a:")) and endpoint:
        options = {"aws_endpoint": endpoint, "allow_http": str(endpoint.startswith("http:")).lower()}
    return lancedb.connect(address, storage_options=options or None, read_consistency_interval=timedelta(0))


class _told:
    """Reports what LanceDB raises in one line. Not a generator, so that iterators may be left in the middle of it."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, (RunError, MissingExtraError)):
            return
        if not isinstance(error, (OSError, RuntimeError, ValueError)):
            return
        what = one_line(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        if "No space left" in str(error) or "os error 28" in str(error):
            raise RunError(
                "the disk is full; what was done is saved: free some space and run the same command again"
            ) from error
        raise RunError(f"the index {one_line(self._address)} cannot be read or written ({what})") from error


def _entry(row: dict[str, Any], maker: Maker | None = None) -> Entry:
    vectors, features = row.get("vectors"), row.get("features")
    return Entry(
        **{name: row[name] for name in _SMALL if name != "file"},
        file=unpacked(row["file"]),
        vectors=None if vectors is None else np.asarray(vectors, np.float32),
        features=None
        if features is None or maker is None
        else np.frombuffer(features, np.float16).reshape(maker.features).astype(np.float32),
        reading=row.get("reading"),
    )


def _quoted(text: str) -> str:
    """A string in a condition."""
    return "'" + text.replace("'", "''") + "'"
