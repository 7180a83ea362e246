"""Conversions into folders of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.conversion.cache import is_whole, sole_writer
from blip2_chat.conversion.convert import convert, converted
from blip2_chat.engines.onnx.manifest import Manifest
from blip2_chat.errors import CheckpointError
from tests.support.conversions import remains


def test_convert_into_a_folder(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = convert(inspect(source), "sub/out", "int4", name=str(source), block_size=64)
    assert made == (tmp_path / "sub/out").resolve() and remains(made.parent) == ["out"]
    manifest = Manifest.from_folder(made)
    assert (manifest.precision, manifest.block_size) == ("int4", 64)
    # It may go to other people: the name of the folder, and not the way there.
    assert manifest.source["name"] == "model" and str(tmp_path) not in (made / "blip2-chat.json").read_text()
    assert inspect(made).kind == "converted"
    for again in (convert, converted):
        arguments: tuple[Any, ...] = (tmp_path / "again",) if again is convert else ()
        with pytest.raises(CheckpointError, match="is converted already"):
            again(inspect(made), *arguments, "int8", name="out")


def test_convert_touches_nothing_that_is_not_its_own(source: Path, tmp_path: Path) -> None:
    checkpoint, out = inspect(source), tmp_path / "out"
    out.mkdir()
    convert(checkpoint, out, "int8", name="model")  # an empty folder is as good as none
    with pytest.raises(CheckpointError, match="holds a conversion already") as caught:
        convert(checkpoint, out, "int4", name="model")
    assert (caught.value.parameter, caught.value.path) == ("force", out)
    convert(checkpoint, out, "int4", name="model", force=True)
    assert Manifest.from_folder(out).precision == "int4"

    (out / "talk.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds talk\.txt"):
        convert(checkpoint, out, "int8", name="model", force=True)
    assert Manifest.from_folder(out).precision == "int4" and (out / "talk.txt").read_text() == "mine"

    for other in (source, tmp_path, out / "talk.txt"):
        with pytest.raises(CheckpointError, match="exists and is not a conversion"):
            convert(checkpoint, other, "int8", name="model", force=True)
    assert inspect(source).kind == "official"
    assert remains(tmp_path) == ["cache", "model", "out"]


def test_force_keeps_the_old_conversion_when_the_new_one_fails(source: Path, tmp_path: Path) -> None:
    out = convert(inspect(source), tmp_path / "out", "int8", name="model")

    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(inspect(source), out, "int4", name="model", force=True, on_progress=interrupt)
    assert Manifest.from_folder(out).precision == "int8"
    assert remains(tmp_path) == ["cache", "model", "out"]


def test_a_folder_is_written_by_one_process_at_a_time(source: Path, tmp_path: Path) -> None:
    with sole_writer(tmp_path / "out"), pytest.raises(CheckpointError, match="another process"):
        convert(inspect(source), tmp_path / "out", "int8", name="model")


def test_convert_needs_no_cache(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "file" / "cache"))
    assert is_whole(convert(inspect(source), tmp_path / "out", "int8", name="model"))
    with pytest.raises(CheckpointError, match=r"cannot be written to .*name a folder elsewhere"):
        convert(inspect(source), tmp_path / "file" / "out", "int8", name="model")
