"""The results of a run as one file: Parquet, JSONL, CSV or a WebDataset shard, written completely or not at
all."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ...images.naming import one_line
from ...system.whole_files import replacing
from ..errors import RunError
from ..inputs.tables import pyarrow_parquet
from ..result import Result
from ..storage import file_system, is_remote, reading, reason, translated
from .tar_writer import write_tar

Writer = Callable[[IO[bytes], Iterable[Result], "Shape"], None]
_ROWS = 4096
# CSV has no lists.
_BETWEEN_ADVICE = " | "


class Shape:
    """The columns of an output file: number of captions, questions, and metadata about the run."""

    def __init__(
        self, captions: int, questions: Iterable[str], about: Mapping[str, Any], has_file_names: bool = False
    ) -> None:
        """`has_file_names`: the results are `FolderResult`s."""
        self.captions = captions
        self.questions = tuple(questions)
        self.about = dict(about)
        self.has_file_names = has_file_names


def write(address: str, results: Iterable[Result], shape: Shape) -> None:
    """Writes the results in the format of the address's extension. `RunError` if that fails; an earlier file is
    then unchanged."""
    writer = FORMATS[ending(address)]
    try:
        with _replacing(address) as file:
            writer(file, results, shape)
    except OSError as error:
        raise RunError(
            f"{one_line(address)} cannot be written ({reason(error)}); the results are kept: "
            "run the same command again when it can be"
        ) from error


def ending(address: str) -> str:
    """The format of an output address; `RunError` for an unknown one, `MissingExtraError` for Parquet without
    pyarrow."""
    suffix = os.path.splitext(address)[1].lower()
    if suffix not in FORMATS:
        raise RunError(f"{one_line(address)} ends in none of {', '.join(FORMATS)}")
    if suffix == ".parquet":
        pyarrow_parquet()
    return suffix


def _parquet(file: IO[bytes], results: Iterable[Result], shape: Shape) -> None:
    parquet = pyarrow_parquet()
    import pyarrow as pa

    text = pa.string()
    fields = [("path", text), ("caption", text), ("captions", pa.list_(text))]
    if shape.questions:
        fields.append(("answers", pa.struct([(question, text) for question in shape.questions])))
    fields += [
        ("score", pa.float64()),
        ("error", text),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("digest", text),
        ("seconds", pa.float64()),
        ("model", text),
        ("precision", text),
        ("duplicate_of", text),
        ("advice", pa.list_(text)),
    ]
    if shape.has_file_names:
        fields.insert(0, ("file_name", text))
    schema = pa.schema(fields, {"blip2_chat": json.dumps(shape.about)})
    rows = (one.as_row() for one in results)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while block := list(itertools.islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(block, schema))


def _jsonl(file: IO[bytes], results: Iterable[Result], shape: Shape) -> None:
    for one in results:
        file.write(one.to_json().encode() + b"\n")


def _csv(file: IO[bytes], results: Iterable[Result], shape: Shape) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    rest = [name for name in Result("").as_row() if name not in ("path", "caption", "captions", "answers")]
    if shape.has_file_names:
        rest.append("file_name")
    captions = ["caption", *(f"caption {n}" for n in range(2, shape.captions + 1))]
    writer = csv.writer(text)
    writer.writerow(["path", *captions, *(f"answers.{one}" for one in shape.questions), *rest])
    for one in results:
        row = {**one.as_row(), "advice": _BETWEEN_ADVICE.join(one.advice)}
        padded = [*one.captions, *[""] * len(captions)][: len(captions)]
        answers = [one.answers.get(question, "") for question in shape.questions]
        writer.writerow([one.path, *padded, *answers, *(row[name] for name in rest)])
    text.flush()
    text.detach()


def _tar(file: IO[bytes], results: Iterable[Result], shape: Shape) -> None:
    write_tar(file, results)


FORMATS: dict[str, Writer] = {".parquet": _parquet, ".jsonl": _jsonl, ".csv": _csv, ".tar": _tar}


@contextmanager
def _replacing(address: str) -> Iterator[IO[bytes]]:
    """A file that gets its name only when it is complete and on disk."""
    if is_remote(address):
        with tempfile.TemporaryFile() as draft, translated(address):
            yield draft
            draft.seek(0)
            fs, path = file_system(address)
            # A remote object appears only when its upload is complete.
            with fs.open(path, "wb") as target:
                while chunk := draft.read(1 << 22):
                    target.write(chunk)
        return
    with replacing(Path(address), survives_power_loss=True) as draft:
        yield draft


def read(address: str) -> Iterator[Result]:
    """The rows of a file that `write` wrote. `RunError` for other files."""
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".csv": _read_csv, ".tar": _read_tar}
    suffix = ending(address)
    try:
        with reading(address) as file:
            for row in readers[suffix](file):
                _require_row(row)
                yield Result.from_row(row)
    except (
        OSError,
        ValueError,
        TypeError,
        csv.Error,
        tarfile.TarError,
    ) as error:  # pyarrow's are ValueErrors
        raise RunError(
            f"{one_line(address)} cannot be read as the result of a run ({reason(error)})"
        ) from error


_KINDS: dict[str, Any] = {
    "path": str,
    "captions": list,
    "answers": dict,
    "score": (int, float),
    "error": str,
    "advice": list,
}


def _require_row(row: Any) -> None:
    """Raises `ValueError` for rows that no run writes, because other programs use the same extensions."""
    if not isinstance(row, dict) or not row.get("path"):
        raise ValueError("its rows have no path")
    for name, kind in _KINDS.items():
        if row.get(name) is not None and not isinstance(row[name], kind):
            raise ValueError(f"its {name} is {one_line(repr(row[name]))}")


def _read_parquet(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    for batch in pyarrow_parquet().ParquetFile(file).iter_batches(_ROWS):
        yield from batch.to_pylist()


def _read_jsonl(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    yield from (json.loads(line) for line in file if line.strip())


def _read_tar(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    archive: Any
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            content = archive.extractfile(member)
            if content is not None and member.name.endswith(".json"):
                yield json.loads(content.read())
            archive.members.clear()


_NUMBERS: dict[str, Callable[[str], float]] = {"score": float, "seconds": float, "width": int, "height": int}


def _read_csv(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    with io.TextIOWrapper(file, "utf-8", newline="") as text:
        for cells in csv.DictReader(text):
            given = {name: value for name, value in cells.items() if name and value not in (None, "")}
            row: dict[str, Any] = {
                name: _NUMBERS[name](value) if name in _NUMBERS else value for name, value in given.items()
            }
            row["captions"] = [value for name, value in given.items() if name.split(" ")[0] == "caption"]
            row["advice"] = given["advice"].split(_BETWEEN_ADVICE) if "advice" in given else []
            row["answers"] = {name[8:]: value for name, value in given.items() if name.startswith("answers.")}
            yield row
