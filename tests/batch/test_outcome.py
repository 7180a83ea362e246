"""Outcomes that other programs join with the pictures: WebDataset shards and `imagefolder`'s metadata."""

from __future__ import annotations

import csv
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from blip2_chat.batch.errors import RunError
from blip2_chat.batch.options import RunOptions
from blip2_chat.batch.outputs import writers
from blip2_chat.batch.outputs.tar_writer import _Names
from blip2_chat.batch.run import Run, Summary
from blip2_chat.model import Model
from tests.support.batch import TASKS, make_pictures
from tests.support.extras import imported
from tests.support.sources import add, png


def go(running: Model, sources: list[Path], out: Path, **more: Any) -> Summary:
    with Run(RunOptions(tuple(sources), TASKS, str(out), **more), {"model": "tiny"}) as run:
        return run.go(running)


def contents(path: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None and member.name not in found
            found[member.name] = file.read()
    return found


def test_keys_of_source_shards_stay_and_pictures_come_along(model: Model, tmp_path: Path) -> None:
    first, second = tmp_path / "s-00.tar", tmp_path / "s-01.tar"
    with tarfile.open(first, "w") as archive:
        add(archive, "d/0001.left.jpg", png(1))
        add(archive, "d/0001.right.jpg", png(2))
        add(archive, "d/0001.txt", b"words")
        add(archive, "d/0002.png", png(3))
        add(archive, "d/0002.jpg", png(4))
        add(archive, "d/0003.png", b"no picture")
        add(archive, "../up.png", png(5))
    with tarfile.open(second, "w") as archive:
        add(archive, "d/0002.png", png(6))
        add(archive, "other.png", png(7))
    out = tmp_path / "c.tar"
    summary = go(model, [tmp_path / "s-{00..01}.tar"], out, with_pictures=True)
    assert (summary.rows, summary.failed, summary.without_picture) == (8, 1, 0)
    found = contents(out)
    assert {name: data for name, data in found.items() if not name.endswith(("json", "txt"))} == {
        "d/0001.left.jpg": png(1),
        "d/0001.right.jpg": png(2),
        "d/0002.png": png(3),
        "d/0002.jpg.jpg": png(4),
        "up.png": png(5),
        "s-01/d/0002.png": png(6),
        "other.png": png(7),
    }
    rows = {name.removesuffix(".json"): json.loads(found[name]) for name in found if name.endswith(".json")}
    bases = ["d/0001.left", "d/0001.right", "d/0002", "d/0002.jpg", "d/0003", "up", "s-01/d/0002", "other"]
    assert list(rows) == bases
    assert rows["d/0001.right"]["path"] == f"{first}/d/0001.right.jpg"
    assert all(rows[base]["caption"].encode() == found[f"{base}.txt"] for base in bases if base != "d/0003")
    assert "picture" not in rows["other"] and len(list(writers.read(str(out)))) == 8
    go(model, [first], tmp_path / "plain.tar")
    assert list(contents(tmp_path / "plain.tar"))[:2] == ["d/0001.left.json", "d/0001.left.txt"]


def test_pictures_from_everywhere_come_along_and_others_are_not_put_in_their_place(
    model: Model, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    paths = make_pictures(photos, 3)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("a", png(9))
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": str(paths[0])}) + "\n", encoding="utf-8")
    sources = [photos, tmp_path / "p.zip", tmp_path / "t.jsonl"]
    assert go(model, sources, tmp_path / "c.tar", with_pictures=True).without_picture == 0
    found = contents(tmp_path / "c.tar")
    names = [f"{number:09d}.png" for number in range(5)]
    assert [found[name] for name in names] == [
        *(path.read_bytes() for path in paths),
        png(9),
        paths[0].read_bytes(),
    ]

    class Replaced(Run):
        def write(self) -> int:
            paths[1].write_bytes(png(77))  # painted over after it was captioned
            paths[2].unlink()
            return super().write()

    made = RunOptions(tuple(sources), TASKS, str(tmp_path / "d.tar"), with_pictures=True)
    with Replaced(made, {"model": "tiny"}) as run:
        assert run.go(model).without_picture == 2
    assert [name for name in contents(tmp_path / "d.tar") if name.endswith(".png")] == [names[0], *names[3:]]
    with pytest.raises(RunError, match=r"needs a \.tar file") as caught:
        go(model, sources, tmp_path / "c.jsonl", with_pictures=True)
    assert caught.value.parameter == "with_pictures"


def test_names_in_a_tar_are_unique() -> None:
    names = _Names()
    paths = [
        "a.tar/x.png",
        "a.tar/x.png (2)",
        "a.tar/x.png (3)",
        "b.tar.gz/x.png",
        "b.tar.gz/x.jpg",
        "q/a.tar/x.png",
    ]
    found = [
        names.unique(path, number)
        for number, path in enumerate([*paths, "photos/x.png", "../a.TAR/../../e.png"])
    ]
    assert found == ["x", "x.png", "x-000000002", "b/x", "b/x.jpg", "a/x", "000000006", "e"]
    names.close()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_metadata_as_imagefolder_reads_it(model: Model, tmp_path: Path, kind: str) -> None:
    photos = tmp_path / "photos"
    paths = make_pictures(photos, 5)
    (photos / "broken.png").write_bytes(b"no picture")
    out = photos / f"metadata.{kind}"
    if kind == "parquet":
        parquet = imported("pyarrow.parquet", "test-ray")
    summary = go(model, [photos], out)
    assert (summary.rows, summary.failed) == (6, 1)
    if kind == "jsonl":
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    elif kind == "csv":
        with out.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = parquet.read_table(out).to_pylist()
    assert [row["file_name"] for row in rows] == [path.relative_to(photos).as_posix() for path in paths]
    assert all(row["caption"] for row in rows)
    assert len(list(writers.read(str(out)))) == 5
    datasets = imported("datasets", "test-ray")
    for name in (".blip2-chat.progress", f"{out.name}.progress", "broken.png"):
        (photos / name).unlink(missing_ok=True)
    read = datasets.load_dataset(
        "imagefolder", data_dir=str(photos), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert {row["caption"] for row in read} == {row["caption"] for row in rows} and len(read) == 5
    assert read[0]["image"].size == (24, 20)


def test_metadata_for_pictures_elsewhere_is_refused_before_any_work(model: Model, tmp_path: Path) -> None:
    make_pictures(tmp_path / "photos", 1)
    (tmp_path / "other").mkdir()
    for out, source in (("other", tmp_path / "photos"), (".", tmp_path / "s.tar")):
        if source.suffix:
            with tarfile.open(source, "w") as archive:
                add(archive, "a.png", png())
        with pytest.raises(RunError, match=r"metadata\.jsonl is for pictures .*give .*another name"):
            go(model, [source], tmp_path / out / "metadata.jsonl")
    assert os.listdir(tmp_path / "other") == []
