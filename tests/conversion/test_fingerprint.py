"""Which conversions are told apart: by weights, precision, format, and the hub's hashes."""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.conversion.convert import converted
from blip2_chat.conversion.fingerprint import fingerprint
from blip2_chat.engines.onnx.manifest import Manifest
from blip2_chat.errors import CheckpointError
from tests.support.conversions import keep, remains, spoil


def test_other_weights_in_the_same_folder_are_converted_anew(source: Path) -> None:
    before = keep(source)
    spoil(source / "model.safetensors", -2)
    after = keep(source)
    assert after != before
    assert any(
        (before / file).read_bytes() != (after / file).read_bytes()
        for file in ("language.onnx.data", "picture.onnx.data", "embeddings.bin")
    )


@pytest.mark.parametrize("small", [64_000_000, 0], ids=["small", "large"])
def test_fingerprint(small: int, source: Path, tmp_path: Path) -> None:
    files = inspect(source).weight_files
    of = partial(fingerprint, hashed_up_to=small)
    first = of(source, files)

    copy = shutil.copytree(source, tmp_path / "moved")
    (copy / "notes.json").write_text("{}")
    assert of(copy, files) == first, "a copy, with a stranger beside it"
    os.utime(copy / "model.safetensors", ns=(1, 1))
    assert (of(copy, files) == first) is bool(small), "another time"

    seen = {first}
    for change in (
        lambda: spoil(source / "model.safetensors", 0x10),
        lambda: spoil(source / "model.safetensors", -1),
        lambda: (source / "config.json").write_text((source / "config.json").read_text() + " "),
        lambda: (source / "tokenizer.json").write_text((source / "tokenizer.json").read_text() + " "),
        lambda: (source / "processor_config.json").unlink(),
    ):
        change()
        seen.add(of(source, files))
    assert len(seen) == 6


def test_a_newer_format_is_another_conversion(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keep(source)
    monkeypatch.setattr("blip2_chat.conversion.job.FORMAT", 99)
    assert keep(source) != before


@pytest.fixture
def snapshot(source: Path, tmp_path: Path) -> Path:
    """`source` as the hub's cache holds it."""
    hub = tmp_path / "hub" / "models--org--name"
    folder = hub / "snapshots" / ("c" * 40)
    folder.mkdir(parents=True)
    (hub / "blobs").mkdir()
    for path in source.iterdir():
        blob = hub / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, blob)
        try:
            (folder / path.name).symlink_to(blob)
        except OSError:
            pytest.skip("symlinks are not permitted here")
    return folder


def test_hub_files_are_known_by_the_hubs_hash(snapshot: Path, cache: Path) -> None:
    checkpoint = inspect(snapshot)
    weights = snapshot / "model.safetensors"
    before = fingerprint(snapshot, checkpoint.weight_files, hashed_up_to=0)
    os.utime(weights, ns=(1, 1))
    assert fingerprint(snapshot, checkpoint.weight_files, hashed_up_to=0) == before
    folder = converted(checkpoint, "int8", name="org/name@main").folder
    assert folder.name.startswith("org--name-int8-")
    source = Manifest.from_folder(folder).source
    assert source["name"] == "org/name@main" and source["revision"] == "c" * 40
    assert source["sha256"] == {"model.safetensors": weights.resolve().name}


def test_a_damaged_download_is_named(snapshot: Path, cache: Path) -> None:
    weights = snapshot / "model.safetensors"
    spoil(weights.resolve(), -2)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged.*not what the hub sent"):
        converted(inspect(snapshot), "int8", name="org/name")
    assert remains(cache / "converted") == []
