"""Tables with a column of paths, URLs or encoded pictures: CSV, JSONL, Parquet."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from ...errors import MissingExtraError, Parameter
from ...images.naming import one_line
from ...system.text_files import delimiter, encoding
from ..errors import RunError, UnreadableError
from ..items import Item, Part, showable
from ..storage import container_error, reading, reason, translated
from .cells import row_items

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
# Usual names of picture columns, most likely first.
_NAMES = (
    *(
        "path",
        "image_path",
        "file_path",
        "filepath",
        "file_name",
        "filename",
        "image",
        "img",
        "picture",
        "file",
    ),
    *("url", "image_url", "uri", "jpg", "png", "bytes"),
)


@dataclass(frozen=True)
class Columns:
    """The column with the pictures (None: the first with a usual name), and the one with their names."""

    picture: str | None = None
    name: str | None = None

    def find(self, present: Iterable[str], where: str) -> str:
        """The picture column of a table with these columns; `RunError` if there is none."""
        names = list(present)
        listed = one_line(", ".join(names))
        if self.name is not None and self.name not in names:
            raise RunError(f"{where} has no column {self.name!r}; it has {listed}")
        if self.picture is not None:
            if self.picture in names:
                return self.picture
            raise RunError(f"{where} has no column {self.picture!r}; it has {listed}")
        lower = {name.lower(): name for name in reversed(names)}
        for usual in _NAMES:
            if usual in lower:
                return lower[usual]
        raise RunError(
            f"{where} has no column with a usual name; give ", Parameter("column"), f": one of {listed}"
        )


def table(path: str, columns: Columns, chunk: int) -> Iterator[Part]:
    """The parts of a table. Its columns are checked immediately."""
    if path.lower().endswith(".parquet"):
        yield from _row_groups(path, columns)
        return
    whole = Lines(path, columns)
    if next(whole.read(), None) is not None:
        yield whole


@dataclass(frozen=True)
class Lines:
    """A CSV, TSV or JSONL file, read from the beginning."""

    path: str
    columns: Columns

    def items(self) -> Iterator[Item]:
        """If the table cannot be read to its end, the last item has the error."""
        try:
            yield from self.read()
        except UnreadableError as error:
            yield Item(showable(self.path), showable(self.path), error=str(error))

    def read(self) -> Iterator[Item]:
        """`items`, but raises `UnreadableError`."""
        shown = one_line(self.path)
        try:
            with reading(self.path) as raw:
                head = raw.read(4)
                raw.seek(0)
                is_json = self.path.lower().endswith(("jsonl", "ndjson"))
                rows = self._json(raw, encoding(head)) if is_json else self._csv(raw, encoding(head))
                column = None
                for number, row in enumerate(rows):
                    if isinstance(row, str):
                        key = showable(f"{self.path}#{number}")
                        yield Item(key, key, error=row)
                        continue
                    column = column or self.columns.find(row, shown)
                    yield from row_items(self.path, number, row, column, self.columns.name)
        except UnicodeError as error:
            raise UnreadableError(
                f"{shown} is not UTF-8 ({one_line(str(error))}); save it as UTF-8"
            ) from error
        except OSError as error:
            raise UnreadableError(container_error(self.path, error)) from error
        except csv.Error as error:
            raise UnreadableError(f"{shown} cannot be read ({reason(error)})") from error

    def count(self) -> int:
        return sum(1 for _ in self.items())

    def _csv(self, raw: IO[bytes], written_in: str) -> Iterator[Mapping[str, Any]]:
        csv.field_size_limit(2**31 - 1)  # a data: URL in a field
        with io.TextIOWrapper(raw, encoding=written_in, newline="") as text:
            first = text.readline()
            between = delimiter(first, "\t" if self.path.lower().endswith(".tsv") else ",")
            for row in csv.DictReader(itertools.chain([first], text), delimiter=between):
                row.pop(None, None)  # fields beyond those of the first line
                yield row

    def _json(self, raw: IO[bytes], written_in: str) -> Iterator[Mapping[str, Any] | str]:
        # A damaged line of UTF-8 is one error; in UTF-16 it is unknown where the next line begins.
        if written_in == "utf-8-sig":
            yield from self._objects(raw)
            return
        with io.TextIOWrapper(raw, encoding=written_in, newline="\n") as text:
            yield from self._objects(text)

    def _objects(self, lines: Iterable[str | bytes]) -> Iterator[Mapping[str, Any] | str]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"line {number} of {one_line(self.path)} is not JSON ({one_line(str(error))})"
                continue
            yield row if isinstance(row, dict) else f"line {number} of {one_line(self.path)} is not an object"


@dataclass(frozen=True)
class RowGroup:
    """One row group of a Parquet file."""

    path: str
    columns: Columns
    number: int
    first_row: int
    rows: int
    is_flat: bool = True  # one picture per row, not a list

    def items(self) -> Iterator[Item]:
        """A damaged row group yields the rows before the damage, then an item with the error."""
        told = None
        try:
            with reading(self.path) as file:
                parquet = pyarrow_parquet().ParquetFile(file)
                column = self.columns.find(parquet.schema_arrow.names, one_line(self.path))
                wanted = [one for one in (column, self.columns.name) if one]
                rows = (
                    row
                    for batch in parquet.iter_batches(16, row_groups=[self.number], columns=wanted)
                    for row in batch.to_pylist()
                )
                for number, row in enumerate(rows, self.first_row):
                    yield from row_items(self.path, number, row, column, self.columns.name)
        except OSError as error:
            told = container_error(self.path, error)
        except ValueError as error:  # pyarrow's, and text that is no UTF-8
            told = f"{one_line(self.path)} cannot be read ({reason(error)})"
        if told is not None:
            key = showable(f"{self.path}#rows from {self.first_row}")
            yield Item(key, key, error=told)

    def count(self) -> int:
        return self.rows if self.is_flat else sum(1 for _ in self.items())


def _row_groups(path: str, columns: Columns) -> Iterator[RowGroup]:
    parquet = pyarrow_parquet()
    import pyarrow

    shown = one_line(path)
    try:
        with reading(path) as file, translated(path):
            opened = parquet.ParquetFile(file)
            column = columns.find(opened.schema_arrow.names, shown)
            is_flat = "list" not in str(opened.schema_arrow.field(column).type).split("<")[0]
            sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.metadata.num_row_groups)]
    except (OSError, pyarrow.ArrowException) as error:
        raise UnreadableError(f"{shown} cannot be read as Parquet ({reason(error)})") from error
    starts = itertools.accumulate(sizes, initial=0)
    for number, (start, size) in enumerate(zip(starts, sizes, strict=False)):
        if size:
            yield RowGroup(path, columns, number, start, size, is_flat)


def pyarrow_parquet() -> Any:
    """`pyarrow.parquet`, or `MissingExtraError`."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("Parquet", "run") from None
    return pyarrow.parquet
