"""Conversion on first load: what is kept, what is told apart, and that nothing half-made remains."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blip2_chat
from blip2_chat.checkpoint.inspect import Checkpoint, inspect
from blip2_chat.conversion import convert as conversion
from blip2_chat.conversion import fingerprint as provenance
from blip2_chat.conversion.cache import cached, clear, is_whole, partial_of, sole_writer
from blip2_chat.conversion.calibration import Calibration
from blip2_chat.conversion.convert import convert, converted
from blip2_chat.engines.onnx import convert as engine
from blip2_chat.engines.onnx.manifest import Manifest
from blip2_chat.engines.onnx.verify import verify
from blip2_chat.errors import CheckpointError
from blip2_chat.images import open_picture, to_pixels
from blip2_chat.system.paths import cache_folder
from tests.support.extras import needs

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, of this test alone."""
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversion, "_temporary", {})
    return tmp_path / "cache"


@pytest.fixture
def source(checkpoint: Make, tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint(), tmp_path / "model"))


def keep(folder: Path, precision: str = "int8", **more: Any) -> Path:
    return converted(inspect(folder), precision, name=str(folder), **more).folder


def remains(folder: Path) -> list[str]:
    """What lies in the folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def count_conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    real, targets = engine.convert, []

    def counting(checkpoint: Checkpoint, target: Path, *arguments: Any, **keywords: Any) -> None:
        targets.append(target)
        real(checkpoint, target, *arguments, **keywords)

    monkeypatch.setattr(engine, "convert", counting)
    return targets


def spoil(path: Path, offset: int) -> None:
    """Changes one byte, and neither size nor modification time."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


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
def test_progress_is_in_bytes_and_reaches_its_end(
    source: Path, monkeypatch: pytest.MonkeyPatch, calibrated: bool
) -> None:
    monkeypatch.setattr(conversion, "DEFAULT", Calibration(is_on=calibrated))
    told: list[tuple[str, int, int]] = []
    folder = keep(source, on_progress=lambda *news: told.append(news))
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


# What is told apart


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
def test_fingerprint(small: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_SMALL", small)
    files = inspect(source).weight_files
    first = provenance.fingerprint(source, files)

    copy = shutil.copytree(source, tmp_path / "moved")
    (copy / "notes.json").write_text("{}")
    assert provenance.fingerprint(copy, files) == first, "a copy, with a stranger beside it"
    os.utime(copy / "model.safetensors", ns=(1, 1))
    assert (provenance.fingerprint(copy, files) == first) is bool(small), "another time"

    seen = {first}
    for change in (
        lambda: spoil(source / "model.safetensors", 0x10),
        lambda: spoil(source / "model.safetensors", -1),
        lambda: (source / "config.json").write_text((source / "config.json").read_text() + " "),
        lambda: (source / "tokenizer.json").write_text((source / "tokenizer.json").read_text() + " "),
        lambda: (source / "processor_config.json").unlink(),
    ):
        change()
        seen.add(provenance.fingerprint(source, files))
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


def test_hub_files_are_known_by_the_hubs_hash(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_SMALL", 0)
    checkpoint = inspect(snapshot)
    weights = snapshot / "model.safetensors"
    before = provenance.fingerprint(snapshot, checkpoint.weight_files)
    os.utime(weights, ns=(1, 1))
    assert provenance.fingerprint(snapshot, checkpoint.weight_files) == before
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
    monkeypatch.setattr(conversion, "_SMALL", 0)
    made = count_conversions(monkeypatch)
    usage = shutil.disk_usage(source)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(CheckpointError, match=r"needs 32 MB .* and 5 MB are free;.*BLIP2_CHAT_CACHE"):
        keep(source)
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
    monkeypatch.setattr(conversion, "_SMALL", 0)
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tiny_disk))
    pretend_room(monkeypatch, source)
    reached = []
    with pytest.raises(CheckpointError, match=r"became full while converting .*BLIP2_CHAT_CACHE") as error:
        keep(source, "fp32", on_progress=lambda what, done, total: reached.append(done))
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
    monkeypatch.setattr(conversion, "_SMALL", 0)

    def fail(folder: Path) -> None:
        raise failure

    monkeypatch.setattr(conversion, "_flush", fail)
    with pytest.raises(CheckpointError, match="became full while"):
        keep(source)


def test_a_large_model_needs_a_writable_cache(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "_SMALL", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BLIP2_CHAT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match=r"cache cannot be written to \(.+\); set BLIP2_CHAT_CACHE"):
        keep(source)


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


# A folder of the user's own


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


# The cache


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
