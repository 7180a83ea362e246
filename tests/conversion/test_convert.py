"""Conversion on first load: what is kept, what is told apart, and that nothing half-made remains."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blip2_chat
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.conversion import convert as conversion
from blip2_chat.conversion.cache import cached, is_whole, partial_of, sole_writer
from blip2_chat.conversion.calibration import Calibration
from blip2_chat.conversion.convert import convert, converted
from blip2_chat.engines.onnx.manifest import Manifest
from blip2_chat.errors import CheckpointError
from blip2_chat.images import open_picture, to_pixels
from tests.support.conversions import Make, count_conversions, keep, remains
from tests.support.extras import needs

# The result


@needs("test-torch")
@pytest.mark.parametrize("family", ["opt", "t5"])
def test_first_load_converts_once_and_answers_as_transformers(
    family: str, checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import Blip2ForConditionalGeneration

    made = count_conversions(monkeypatch)
    folder = checkpoint(family)
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    prompt = "Question: how many cats are there? Answer:"
    answers = []
    for _ in range(2):
        model = blip2_chat.load(folder, engine="onnx", precision="fp32")
        answers.append(model.generate(picture, prompt, max_new_tokens=12, min_new_tokens=12).tokens)
    assert len(made) == 1 and len(cached()) == 1
    assert answers[0] == answers[1]

    reference = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    ids = model.tokenizer.encode(prompt)
    image_id = reference.config.image_token_index
    with torch.no_grad():
        expected = reference.generate(
            pixel_values=torch.from_numpy(to_pixels(open_picture(picture), model.preprocess)),
            input_ids=torch.tensor([[image_id] * reference.config.num_query_tokens + list(ids)]),
            do_sample=False,
            max_new_tokens=12,
            min_new_tokens=12,
        )[0].tolist()
    assert list(answers[0]) == expected[-12:]


def test_manifest_says_what_it_was_made_from(checkpoint: Make) -> None:
    folder = checkpoint("opt", 1, max_shard_size="60KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    source = Manifest.from_folder(keep(folder, "int4")).source
    assert source["sha256"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards}
    assert source["name"] == str(folder) and source["revision"] is None


def test_shards_and_one_file_give_the_same_bytes(checkpoint: Make) -> None:
    one, several = (keep(checkpoint("opt", 1, max_shard_size=size)) for size in ("5GB", "60KB"))
    assert one != several
    for name in ("language.onnx.data", "picture.onnx.data", "embeddings.bin"):
        assert (one / name).read_bytes() == (several / name).read_bytes()


def test_precisions_and_block_sizes_live_side_by_side(source: Path) -> None:
    kept = {keep(source, "int8"), keep(source, "int4"), keep(source, "int4", block_size=32)}
    assert len(kept) == 3 and all(is_whole(folder) for folder in kept)
    with pytest.raises(CheckpointError, match="int3"):
        keep(source, "int3")
    with pytest.raises(CheckpointError, match="block_size"):
        keep(source, block_size=48)


@pytest.mark.parametrize("calibrated", [True, False])
def test_progress_is_in_bytes_and_reaches_its_end(source: Path, cache: Path, calibrated: bool) -> None:
    told: list[tuple[str, int, int]] = []
    calibration = Calibration(is_on=calibrated)
    folder = keep(source, calibration=calibration, on_progress=lambda *news: told.append(news))
    names = (f"calibrating {source}", f"converting {source} to int8")
    counted = [news for news in told if news[0] in names]
    done = [news[1] for news in counted]
    assert done == sorted(done) and len(done) > 10 and done[-1] == counted[-1][2]
    assert {news[0] for news in counted} == set(names if calibrated else names[1:])
    # Calibration reads the float32 weights beside.
    if not calibrated:
        files = sum(path.stat().st_size for path in folder.glob("*.data"))
        files += (folder / "embeddings.bin").stat().st_size
        # Padding to whole pages comes on top: up to 4 kB for each tensor.
        assert 0 <= files - done[-1] <= 4096 * len(done)


# What goes wrong


def test_a_damaged_conversion_is_made_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = keep(source)
    whole = (folder / "language.onnx.data").read_bytes()
    os.truncate(folder / "language.onnx.data", len(whole) // 2)
    made = count_conversions(monkeypatch)
    assert keep(source) == folder and len(made) == 1
    assert (folder / "language.onnx.data").read_bytes() == whole
    assert remains(folder.parent) == [folder.name]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_conversion_leaves_nothing(
    stop: type[BaseException], source: Path, cache: Path
) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done > total / 2:
            assert remains(cache / "converted")
            raise stop

    with pytest.raises(stop):
        keep(source, on_progress=interrupt)
    assert remains(cache / "converted") == []
    assert is_whole(keep(source))


def test_weights_cut_off_after_they_were_inspected(source: Path, cache: Path) -> None:
    checkpoint = inspect(source)
    weights = source / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is cut off: it ends inside"):
        converted(checkpoint, "int8", name="model")
    assert remains(cache / "converted") == []


def test_a_file_that_was_given_its_size_and_not_all_of_its_content(source: Path, cache: Path) -> None:
    weights = source / "model.safetensors"
    size = weights.stat().st_size
    os.truncate(weights, size // 2)
    os.truncate(weights, size)  # zeros from the middle on, as of a download that reserved its place
    with pytest.raises(
        CheckpointError, match=r"safetensors was not written whole: .* nothing but zeros; fetch it"
    ):
        converted(inspect(source), "int8", name="model")
    assert remains(cache / "converted") == []


def test_weights_that_change_while_they_are_converted(source: Path, cache: Path) -> None:
    def meddle(what: str, done: int, total: int) -> None:
        if done > total / 2:
            os.utime(source / "config.json")
            (source / "config.json").write_text((source / "config.json").read_text() + " ")

    with pytest.raises(CheckpointError, match="changed while"):
        keep(source, on_progress=meddle)
    assert remains(cache / "converted") == []


def test_disk_space_is_checked_first(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = count_conversions(monkeypatch)
    usage = shutil.disk_usage(source)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(CheckpointError, match=r"needs 32 MB .* and 5 MB are free;.*BLIP2_CHAT_CACHE"):
        keep(source, small=0)
    assert made == [] and remains(cache / "converted") == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if sys.platform != "linux" or not mount or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs Linux and the right to mount")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def pretend_room(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The disk fills up after the check, as when somebody else writes too."""
    usage = shutil.disk_usage(folder)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)


def test_a_disk_that_becomes_full(source: Path, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tiny_disk))
    pretend_room(monkeypatch, source)
    reached = []
    with pytest.raises(CheckpointError, match=r"became full while converting .*BLIP2_CHAT_CACHE") as error:
        keep(source, "fp32", small=0, on_progress=lambda what, done, total: reached.append(done))
    assert reached, "it was full before anything was written"
    assert "\n" not in str(error.value)
    assert remains(tiny_disk / "converted") == []
    with pytest.raises(CheckpointError, match=r"became full while .*name a folder elsewhere"):
        convert(inspect(source), tiny_disk / "out", "fp32", name="model")
    assert remains(tiny_disk) == ["converted", "locks"]


@pytest.mark.parametrize(
    "failure",
    [OSError(28, "No space left on device"), OSError("4096 requested and 512 written")],
    ids=["errno", "numpy"],
)
def test_every_form_of_a_full_disk_is_one_line(
    failure: OSError, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def fail(folder: Path) -> None:
        raise failure

    monkeypatch.setattr(conversion, "_flush", fail)
    with pytest.raises(CheckpointError, match="became full while"):
        keep(source, small=0)


def test_a_large_model_needs_a_writable_cache(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match=r"cache cannot be written to \(.+\); set BLIP2_CHAT_CACHE"):
        keep(source, small=0)


def test_a_small_model_does_without_a_cache(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    code = (
        "import sys, warnings; from pathlib import Path\n"
        "warnings.simplefilter('always')\n"
        "from blip2_chat.checkpoint.inspect import inspect; from blip2_chat.conversion.convert import converted\n"
        "a, b = (converted(inspect(sys.argv[1]), 'int8', name='model').folder for _ in range(2))\n"
        "assert a == b; print(a, (a / 'blip2-chat.json').is_file())"
    )
    folder = tmp_path / "file" / "cache"
    environment = {
        **os.environ,
        "BLIP2_CHAT_CACHE": str(folder),
        **{variable: str(temporary) for variable in ("TMPDIR", "TEMP", "TMP")},
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(source)], env=environment, capture_output=True, text=True, check=True
    )
    made, is_there = done.stdout.split()
    assert is_there == "True" and Path(made).is_relative_to(temporary)
    assert done.stderr.count("Warning: ") == 1 and "for this run only" in done.stderr
    # Of ours, that is: ONNX Runtime leaves a file of its own.
    assert list(temporary.glob("blip2-chat-*")) == [], "gone with the process"


def test_a_cache_that_can_only_be_read_is_enough(source: Path, cache: Path) -> None:
    folder = keep(source)
    shutil.rmtree(cache / "locks")
    (cache / "locks").write_text("no lock can be made here")
    assert keep(source) == folder


# Company


def test_two_threads_convert_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = count_conversions(monkeypatch)
    has_begun, was_seen, told, folders = threading.Event(), threading.Event(), [], []

    def first(what: str, done: int, total: int) -> None:
        if done > total / 2:  # in the middle of it, it does not go on before the other was seen to wait
            has_begun.set()
            was_seen.wait(60)

    def second(*news: Any) -> None:
        told.append(news)
        if len(told) == 2:
            was_seen.set()

    one = threading.Thread(target=lambda: folders.append(keep(source, on_progress=first)))
    one.start()
    assert has_begun.wait(60)
    folders.append(keep(source, on_progress=second))
    one.join(60)
    assert len(made) == 1 and folders[0] == folders[1]
    assert told and all(what.startswith("waiting for another process") for what, _, _ in told)
    assert all(0 < done <= total for _, done, total in told)


def test_remains_of_a_killed_conversion_are_removed_and_running_ones_kept(source: Path, cache: Path) -> None:
    living, dead = cache / "converted" / "living-int8-0", cache / "converted" / "dead-int8-0"
    for target in (living, dead):
        (partial_of(target) / "model").mkdir(parents=True)
    with sole_writer(living):
        folder = keep(source)
        assert remains(folder.parent) == sorted([partial_of(living).name, folder.name])
    keep(source, "int4")
    assert not partial_of(living).exists()
