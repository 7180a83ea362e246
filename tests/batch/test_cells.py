"""Pictures in the cells of tables: as base64, as lists, as datasets keeps them."""

from __future__ import annotations

import base64
import csv
import json
import textwrap
from pathlib import Path

import pytest

from blip2_chat.batch.inputs.cells import from_base64
from blip2_chat.batch.inputs.sources import open_sources
from blip2_chat.batch.inputs.tables import Columns
from blip2_chat.batch.items import Item, count, positioned
from tests.support.extras import imported
from tests.support.sources import colour, png


def found(path: Path, column: str | None = None, name: str | None = None) -> list[Item]:
    items = list(positioned(open_sources([path], Columns(column, name))))
    assert count(open_sources([path], Columns(column, name))) == len(items)
    return items


def test_base64_in_a_column_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    plain = base64.b64encode(png(1)).decode()
    cells = [
        plain,
        "\n".join(textwrap.wrap(plain, 76)),
        base64.urlsafe_b64encode(png(1)).decode().rstrip("="),
        repr(base64.b64encode(png(1))),
        f"data:image/png;base64,{plain}",
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows(
            [("id", "image"), *enumerate([*cells, "a.png", plain[:60]])]
        )
    *items, named, cut = found(path)
    assert [colour(item) for item in items] == [1] * 5
    assert [item.path for item in items] == [f"{path}#{number}" for number in range(5)], (
        "no base64 in the path"
    )
    assert (
        len({item.key for item in items}) == 5 and max(len(item.key) for item in items) < len(str(path)) + 40
    )
    assert named.path == str(tmp_path / "a.png") and named.file == named.path
    assert cut.path == f"{path}#6"
    assert [item.path for item in found(path, name="id")][:2] == ["0", "1"]


@pytest.mark.parametrize(
    "text", ["a.png", "/9j/folder/a.jpg", "iVBORw0KGgo", "photos/2020/IMG0001", "A" * 4000, "é" * 99]
)
def test_paths_are_no_base64(text: str) -> None:
    assert from_base64(text) is None


def test_text_that_is_neither_path_nor_picture_does_not_become_a_path(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"image": "x" * 100_000}) + "\n", encoding="utf-8")
    (item,) = found(path)
    assert item.path == f"{path}#0"
    assert item.error == f"row 0 of {path} has no picture in 'image', but 100,000 characters of text"


def test_lists_of_pictures_give_a_row_each(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    rows = [
        ["0.png", "1.png"],
        [],
        "2.png",
        [{"path": "3.png"}],
        [{"bytes": base64.b64encode(png(7)).decode()}],
        [[0, 1]],
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{n}", "images": row}) + "\n" for n, row in enumerate(rows)))
    items = found(path, "images", "id")
    assert [item.path for item in items] == ["r0[0]", "r0[1]", "r1", "r2", "r3[0]", "r4[0]", "r5"]
    assert [colour(item) for item in items if item.error is None] == [0, 1, 2, 3, 7]
    assert items[2].error == f"row 1 of {path} has an empty list in 'images'"
    assert items[-1].error is not None and "has numbers in 'images'" in items[-1].error
    table = tmp_path / "t.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image"], ['["0.png", "1.png"]'], ["[2].png"]])
    (tmp_path / "[2].png").write_bytes(png(2))
    assert [colour(item) for item in found(table)] == [0, 1, 2]


def test_lists_of_pictures_in_parquet_as_datasets_writes_them(tmp_path: Path) -> None:
    pa, parquet = imported("pyarrow", "test-ray"), imported("pyarrow.parquet", "test-ray")
    path = tmp_path / "t.parquet"
    lists = [[{"bytes": png(n), "path": None} for n in range(row)] for row in range(4)]
    parquet.write_table(
        pa.table({"image": lists, "text": [base64.b64encode(png(5))] * 4}), path, row_group_size=2
    )
    items = found(path)
    assert items[0].error == f"row 0 of {path} has an empty list in 'image'"
    assert [colour(item) for item in items[1:]] == [0, 0, 1, 0, 1, 2]
    assert items[-1].path == f"{path}#3[2]"
    assert [colour(item) for item in found(path, "text")] == [5] * 4
