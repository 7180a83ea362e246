"""The report: one file that shows everything, opened in a real browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blip2_chat.batch.errors import RunError
from blip2_chat.batch.inputs.tables import Columns
from blip2_chat.batch.journal import Journal
from blip2_chat.batch.outputs.report import report
from blip2_chat.batch.outputs.writers import Shape, write
from blip2_chat.batch.result import Result
from blip2_chat.images import PictureLimits, open_picture
from tests.support.batch import digest, make_pictures
from tests.support.extras import imported
from tests.support.forking import blip2_chat

NASTY = '</script><script>document.title="owned"</script><!-- & <b>'

REASON, THUMBNAIL = 9, 10  # their places in a row of the page


def rows(pictures: list[Path], **more: Any) -> list[Result]:
    return [
        Result(
            str(path),
            (f"a picture of number {at}",),
            {},
            -0.1 * at,
            width=24,
            height=20,
            digest=digest(path),
            **more,
        )
        for at, path in enumerate(pictures)
    ]


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script id="data" type="application/json">(.*?)</script>', page.read_text("utf-8"), re.S
    )
    assert found is not None
    return json.loads(found[1])  # type: ignore[no-any-return]


def test_holds_every_row_and_a_thumbnail_per_different_picture(tmp_path: Path) -> None:
    made = rows(make_pictures(tmp_path / "photos", 5))
    made[3] = Result(
        made[3].path,
        (NASTY,),
        {"what, <now>?": NASTY},
        -1,
        digest=made[1].digest,
        duplicate_of=made[1].path,
    )
    made.append(Result("gone.png", error="gone.png was not found; check the path"))
    made.append(Result("moved.png", ("it was here",), {}, -1, digest="x"))
    write(str(tmp_path / "c.jsonl"), made, Shape(1, ["what, <now>?"], {}))
    assert report(str(tmp_path / "c.jsonl"), tmp_path / "c.html", title=NASTY) == 7
    text = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "</script><script>document" not in text
    data = data_of(tmp_path / "c.html")
    assert data["title"] == NASTY and data["questions"] == ["what, <now>?"]
    assert [row[0] for row in data["rows"]] == [one.path for one in made]
    assert data["rows"][3][1:3] == [[NASTY], [NASTY]] and data["rows"][5][4] == made[5].error
    thumbs = [row[THUMBNAIL] for row in data["rows"]]
    assert thumbs[3] == thumbs[1] and thumbs[5] is thumbs[6] is None
    assert len(data["thumbs"]) == 4 == len({thumb for thumb in thumbs if thumb is not None})
    for row, path in zip(data["rows"][:3], [one.path for one in made], strict=False):
        small = Image.open(io.BytesIO(base64.b64decode(data["thumbs"][row[THUMBNAIL]])))
        assert small.format == "WEBP" and small.size == (24, 20)
        with Image.open(path) as original:
            assert _mean(small) == pytest.approx(_mean(original), abs=40)


def _mean(image: Image.Image) -> tuple[int, ...]:
    return image.convert("RGB").resize((1, 1)).getpixel((0, 0))  # type: ignore[return-value]


def test_finds_pictures_in_shards_and_beside_results_that_moved(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "old" / "photos", 3)
    with tarfile.open(tmp_path / "old" / "s.tar", "w") as archive:
        for path in pictures[:2]:
            archive.add(path, path.name)
    made = [Result(f"s.tar/{path.name}", ("x",), {}, 0, digest=digest(path)) for path in pictures[:2]]
    made.append(Result(f"photos/{pictures[2].name}", ("y",), {}, 0, digest=digest(pictures[2])))
    write(str(tmp_path / "old" / "c.jsonl"), made, Shape(1, [], {}))
    shutil.move(tmp_path / "old", tmp_path / "new")
    report(str(tmp_path / "new" / "c.jsonl"), tmp_path / "c.html")
    assert sorted(row[THUMBNAIL] for row in data_of(tmp_path / "c.html")["rows"]) == [0, 1, 2]


def test_finds_pictures_in_zips_and_in_lists_of_a_table(tmp_path: Path) -> None:
    pyarrow, parquet = imported("pyarrow", "run"), imported("pyarrow.parquet", "run")
    one, other = make_pictures(tmp_path / "photos", 2)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.write(one, "0.png")
    parquet.write_table(
        pyarrow.table({"image": [[one.read_bytes(), other.read_bytes()]]}), tmp_path / "t.parquet"
    )
    results = [
        replace(rows([one])[0], path=f"{tmp_path}/p.zip/0.png"),
        replace(rows([other])[0], path=f"{tmp_path}/t.parquet#0[1]"),
    ]
    write(str(tmp_path / "out.jsonl"), results, Shape(1, (), {}))
    report(str(tmp_path / "out.jsonl"), tmp_path / "out.html")
    assert sorted(row[THUMBNAIL] for row in data_of(tmp_path / "out.html")["rows"]) == [0, 1]


def test_large_photographs_become_small_upright_thumbnails(tmp_path: Path) -> None:
    photo = Image.radial_gradient("L").resize((4000, 3000)).convert("RGB")
    photo.paste((255, 0, 0), (0, 0, 4000, 600))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned to the right: the red beam is at the right edge
    photo.save(tmp_path / "p.jpg", exif=exif)
    write(
        str(tmp_path / "c.jsonl"),
        [Result(str(tmp_path / "p.jpg"), ("x",), {}, 0, digest=digest(tmp_path / "p.jpg"))],
        Shape(1, [], {}),
    )
    report(str(tmp_path / "c.jsonl"), tmp_path / "c.html")
    small = Image.open(io.BytesIO(base64.b64decode(data_of(tmp_path / "c.html")["thumbs"][0]))).convert("RGB")
    assert small.size == (270, 360)
    red, green, _ = small.getpixel((small.width - 8, 180))  # type: ignore[misc]
    assert red > 200 and green < 60
    assert (tmp_path / "c.html").stat().st_size < 100_000


def shown(page: Path) -> list[str | None]:
    """For each row the colour of its thumbnail, or why there is none."""
    data = data_of(page)
    found: list[str | None] = []
    for row in data["rows"]:
        if row[THUMBNAIL] is None:
            found.append(row[REASON])
            continue
        red, _, blue = _mean(Image.open(io.BytesIO(base64.b64decode(data["thumbs"][row[THUMBNAIL]]))))
        found.append("red" if red > blue else "blue")
    return found


def encoded(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(data, "PNG")
    return data.getvalue()


def of_colour(path: str, colour: str) -> Result:
    pixels = b"20x20 RGB\n" + Image.new("RGB", (20, 20), colour).tobytes()
    return Result(path, (colour,), {}, 0, digest=hashlib.sha256(pixels).hexdigest())


def test_a_replaced_picture_is_not_shown_beside_the_old_caption(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded("red"))
    made = [of_colour(str(tmp_path / name), "red") for name in ("a.png", "b.png", "c.png")]
    made.append(replace(made[0], digest=None))
    write(str(tmp_path / "c.jsonl"), [made[0], of_colour(made[1].path, "blue"), *made[2:]], Shape(1, [], {}))
    (tmp_path / "b.png").write_bytes(encoded("red"))
    report(str(tmp_path / "c.jsonl"), tmp_path / "c.html")
    assert shown(tmp_path / "c.html") == [
        "red",
        "another picture is there now",
        "red",  # c.png is gone, but a.png has the same pixels
        "no digest to check the picture against",
    ]


def test_pictures_of_more_than_the_usual_size_are_opened_as_the_run_did(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("L", (10_100, 10_000), 90).save(path)
    limits = PictureLimits(max_pixels=120_000_000)
    digest = open_picture(path, limits=limits).digest
    made = [Result(str(path), ("a wall",), {}, -1, digest=digest)]
    write(str(tmp_path / "c.jsonl"), made, Shape(1, [], {}))
    report(str(tmp_path / "c.jsonl"), tmp_path / "c.html")
    assert data_of(tmp_path / "c.html")["thumbs"] == []
    with Journal(tmp_path / "c.jsonl.progress") as journal:
        journal.note({"settings": {"sources": [str(path)]}, "max_pixels": limits.max_pixels})
    report(str(tmp_path / "c.jsonl"), tmp_path / "c.html")
    assert len(data_of(tmp_path / "c.html")["thumbs"]) == 1


def test_pictures_of_a_table_are_those_of_the_column_that_was_read(tmp_path: Path) -> None:
    pyarrow = imported("pyarrow", "test-ray")
    parquet = imported("pyarrow.parquet", "test-ray")
    table = pyarrow.table({"image": [encoded("red")], "jpg": [encoded("blue")], "title": ["some name"]})
    parquet.write_table(table, tmp_path / "two.parquet")
    source = str(tmp_path / "two.parquet")
    by_number, by_name = of_colour(f"{source}#0", "blue"), of_colour("some name", "blue")
    write(str(tmp_path / "c.jsonl"), [by_number], Shape(1, [], {}))
    report(str(tmp_path / "c.jsonl"), tmp_path / "c.html")
    assert shown(tmp_path / "c.html") == ["another picture is there now"], "the other column's is not shown"
    assert blip2_chat("report", tmp_path / "c.jsonl", "--column", "jpg")[0] == 0
    assert shown(tmp_path / "c.html") == ["blue"]
    write(str(tmp_path / "m.jsonl"), [by_name], Shape(1, [], {}))
    where = ("--pictures", source, "--column", "jpg", "--name-column", "title")
    assert blip2_chat("report", tmp_path / "m.jsonl", *where)[0] == 0
    assert shown(tmp_path / "m.html") == ["blue"]
    # What the run recorded, in the Parquet result itself or in its progress file, needs no option.
    about = {"sources": [source], "columns": ["jpg", "title"]}
    write(str(tmp_path / "n.parquet"), [by_name], Shape(1, [], about))
    report(str(tmp_path / "n.parquet"), tmp_path / "n.html")
    assert shown(tmp_path / "n.html") == ["blue"]
    write(str(tmp_path / "n.jsonl"), [by_name], Shape(1, [], {}))
    with Journal(tmp_path / "n.jsonl.progress") as journal:
        journal.note({"settings": about})
    report(str(tmp_path / "n.jsonl"), tmp_path / "n.html")
    assert shown(tmp_path / "n.html") == ["blue"]
    report(str(tmp_path / "n.jsonl"), tmp_path / "n.html", columns=Columns("image"))
    assert shown(tmp_path / "n.html") == ["picture not found"]


def test_relative_paths_mean_the_runs_pictures_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, colour in (("here", "red"), ("there", "blue")):
        (tmp_path / folder / "photos").mkdir(parents=True)
        (tmp_path / folder / "photos" / "a.png").write_bytes(encoded(colour))
    results = tmp_path / "there" / "c.jsonl"
    write(str(results), [of_colour("photos/a.png", "blue")], Shape(1, [], {}))
    monkeypatch.chdir(tmp_path / "here")
    report(str(results), tmp_path / "c.html")
    assert shown(tmp_path / "c.html") == ["blue"]
    moved = str(shutil.move(results, tmp_path / "c.jsonl"))
    report(moved, tmp_path / "c.html")
    assert shown(tmp_path / "c.html") == ["another picture is there now"]
    report(moved, tmp_path / "c.html", pictures=[str(tmp_path / "there" / "photos")])
    assert shown(tmp_path / "c.html") == ["blue"]


def test_a_file_that_is_not_a_result_is_reported(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"no": "path"}\n', encoding="utf-8")
    with pytest.raises(RunError, match="cannot be read as the result of a run"):
        report(str(tmp_path / "c.jsonl"), tmp_path / "c.html")
    (tmp_path / "c.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="no rows"):
        report(str(tmp_path / "c.jsonl"), tmp_path / "c.html")
    odd = ["[1]", '{"path": 5}', '{"path": "x", "answers": [1]}', '{"path": "x", "score": "high"}']
    for line in [*odd, '{"path": "x", "captions": "a cat"}']:
        (tmp_path / "c.jsonl").write_text(line + "\n", encoding="utf-8")
        with pytest.raises(RunError, match=r"cannot be read as the result of a run \(its "):
            report(str(tmp_path / "c.jsonl"), tmp_path / "c.html")
        with pytest.raises(RunError, match="is the file of results"):
            report(str(tmp_path / "c.jsonl"), tmp_path / "." / "c.jsonl")
    code, _, err = blip2_chat("report", ".")
    assert code == 1 and "ends in none of" in err and len(err.strip().splitlines()) == 1
    code, _, err = blip2_chat("report", tmp_path / "none.jsonl")
    assert code == 1 and "No such file" in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "c.html").exists()


def test_the_command_names_the_page_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(str(tmp_path / "c.csv"), rows(make_pictures(tmp_path / "photos", 1)), Shape(1, [], {}))
    code, out, err = blip2_chat("report", tmp_path / "c.csv")
    assert (code, out) == (0, f"{tmp_path / 'c.html'}\n")
    assert re.fullmatch(r"1 picture, [\d.]+ MB\n", err), "and warns of nothing"
    monkeypatch.chdir(tmp_path / "photos")
    code, out, err = blip2_chat("report", f"file://{(tmp_path / 'c.csv').as_posix()}")
    assert (code, out) == (0, "c.html\n") and (tmp_path / "photos" / "c.html").is_file()
