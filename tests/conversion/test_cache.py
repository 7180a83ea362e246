"""The cache of conversions: listed, cleared, verified."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import blip2_chat
from blip2_chat.conversion.cache import cached, clear, is_whole, sole_writer
from blip2_chat.engines.onnx.verify import verify
from blip2_chat.errors import CheckpointError
from blip2_chat.system.paths import cache_folder
from tests.support.conversions import Make, keep, remains


def test_the_cache_is_listed_and_cleared(source: Path, checkpoint: Make, cache: Path) -> None:
    assert cached() == [] and clear() == []
    other = checkpoint("t5")
    folders = [keep(source, "int8"), keep(source, "int4"), keep(other, "int8")]
    os.truncate(folders[1] / "embeddings.bin", 3)
    (folders[2] / "blip2-chat.json").write_text("{")
    (cache / "converted" / ".dead-int8-0.partial").mkdir()
    listed = {entry.folder: entry for entry in cached()}
    assert listed.keys() == set(folders)
    assert [listed[folder].precision for folder in folders] == ["int8", "int4", "?"]
    assert [listed[folder].source for folder in folders] == [str(source), str(source), "unknown"]
    assert [listed[folder].is_usable for folder in folders] == [True, False, False]
    assert listed[folders[0]].size == sum(path.stat().st_size for path in folders[0].iterdir())

    with pytest.raises(CheckpointError, match="nothing called stranger"):
        clear("stranger")
    assert [entry.folder for entry in clear(folders[2].name)] == [folders[2]]
    assert len(clear(str(source))) == 2
    assert remains(cache / "converted") == []


def test_a_conversion_in_the_making_is_not_cleared(source: Path) -> None:
    folder = keep(source)
    with sole_writer(folder), pytest.raises(CheckpointError, match="another process"):
        clear()
    assert is_whole(folder)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "{home}/.cache/blip2-chat"),
        ({"XDG_CACHE_HOME": "{home}/xdg"}, "{home}/xdg/blip2-chat"),
        ({"BLIP2_CHAT_CACHE": "~/mine"}, "{home}/mine"),
    ],
)
@pytest.mark.skipif(
    sys.platform != "linux", reason="other systems have other places, which platformdirs knows"
)
def test_the_cache_is_where_the_system_has_it(
    variables: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("BLIP2_CHAT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value.format(home=tmp_path))
    assert cache_folder() == Path(expected.format(home=tmp_path))


def test_the_manifest_is_json_that_people_can_read(source: Path) -> None:
    text = (keep(source) / "blip2-chat.json").read_text(encoding="utf-8")
    assert json.loads(text)["source"]["blip2_chat"] == blip2_chat.__version__ and text.count("\n") > 10


def test_a_conversion_that_is_loaded_is_verified_once(
    source: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    blip2_chat.load(source, precision="int8", engine="onnx").close()
    seen = []

    def counted(folder: Path) -> Any:
        seen.append(folder)
        return verify(folder)

    monkeypatch.setattr("blip2_chat.engines.onnx.verify.verify", counted)
    monkeypatch.setattr("blip2_chat.conversion.convert.verify", counted)
    blip2_chat.load(source, precision="int8", engine="onnx").close()
    assert len(seen) == 1
