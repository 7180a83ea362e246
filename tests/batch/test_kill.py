"""Runs that are killed, starved and unplugged: nothing that was reported is lost, nothing is done twice."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blip2_chat.batch.errors import RunError
from blip2_chat.batch.inputs.pictures import Opener
from blip2_chat.batch.items import path_item
from blip2_chat.batch.journal import Journal
from blip2_chat.batch.options import RunOptions
from blip2_chat.images import PictureLimits
from tests.support.batch import (
    TASKS,
    command,
    finished,
    fork_run,
    load_folder,
    make_pictures,
    rows_of,
    whole_run,
)
from tests.support.forking import blip2_chat
from tests.support.killing import Killed
from tests.support.waiting import wait_until

LINUX_ROOT = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("mount"),
    reason="mounts a small disk: needs root on Linux",
)


@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tiny: Path, tmp_path: Path, kills: int) -> None:
    photos = tmp_path / "photos"
    count = 8 * kills
    pictures = make_pictures(photos, count)
    (photos / "bad.png").write_bytes(b"no picture")
    shutil.copy(pictures[5], photos / "p0005-again.png")
    out = tmp_path / "killed.jsonl"
    options = RunOptions((photos,), TASKS, str(out), batch_size=3)
    told = tmp_path / "told.txt"
    killed = Killed(told, lambda: fork_run(tiny, options, told))
    for _ in range(kills):
        killed.once(early=0.5)
        if out.exists():  # it was quicker than the kill: there has to be something left to do
            make_pictures(photos, 200, first=count)
            count += 200
            out.unlink()
        reported = killed.reported
        with contextlib.closing(sqlite3.connect(f"{out}.progress")) as journal:
            kept = {row[0] for row in journal.execute("SELECT key FROM results")} if reported else set()
        assert set(reported) <= kept, "reported, and lost"
    assert killed.in_the_middle >= kills // 4, "most kills came before anything was done"
    whole_run(tiny, options, told)
    undisturbed = tmp_path / "undisturbed.jsonl"
    whole_run(tiny, RunOptions((photos,), TASKS, str(undisturbed), batch_size=3))
    assert rows_of(out) == rows_of(undisturbed)
    killed.require_nothing_twice()


# The third batch waits once it is on the disk: however quick the machine, the run is in the middle of its work.
_HELD = """
import pathlib, time
from blip2_chat.batch.journal import Journal
here, commit = pathlib.Path({here!r}), Journal.commit
def held(self, results):
    commit(self, results)
    if len(self) == 3:
        (here / "held").touch()
        while not (here / "go on").exists():
            time.sleep(0.01)
Journal.commit = held
"""


@contextlib.contextmanager
def held(photos: Path, out: Path, tiny: Path) -> Iterator[tuple[subprocess.Popen[str], Callable[[], object]]]:
    """The command at work, three results on the disk, and what lets it go on."""
    here = out.parent
    arguments = ["--model", tiny, "--batch-size", "1", "--max-new-tokens", "6", "--threads", "1"]
    with command("run", photos, "--out", out, *arguments, before=_HELD.format(here=str(here))) as process:
        try:
            assert wait_until(lambda: (here / "held").exists() or process.poll() is not None, 120), (
                "nothing happens"
            )
            assert process.poll() is None, process.communicate()
            yield process, (here / "go on").touch
        finally:
            process.kill()


def test_ctrl_c_stops_after_the_batch_and_the_same_command_goes_on(tiny: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "captions.jsonl"
    make_pictures(photos, 300)
    with held(photos, out, tiny) as (process, go_on):
        process.send_signal(signal.SIGINT)
        go_on()
        code, stdout, stderr = finished(process)
    assert code == 130, stderr
    assert "Stopped: " in stderr and "to resume" in stderr and stdout.strip() == str(out)
    assert "Traceback" not in stderr
    some = rows_of(out)
    assert 3 <= len(some) < 300
    code, _, stderr = blip2_chat("run", photos, "--out", out, "--model", tiny, "--max-new-tokens", "6")
    assert code == 0 and f"{len(some):,} pictures were done before" in stderr
    whole = rows_of(out)
    assert whole[: len(some)] == some and len(whole) == 300


def test_one_output_has_one_run_at_a_time(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "captions.jsonl"
    make_pictures(photos, 1)
    with Journal(Path(f"{out}.progress")):
        code, _, stderr = blip2_chat("run", photos, "--out", out, "--model", "no/model")
    assert code == 1 and "another run is writing it" in stderr and len(stderr.strip().splitlines()) == 1


def test_unplugged_source_ends_the_run_and_is_gone_on_with(tiny: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "captions.jsonl"
    make_pictures(photos, 200)
    with held(photos, out, tiny) as (process, go_on):
        photos.rename(tmp_path / "elsewhere")
        go_on()
        code, _, stderr = finished(process)
    assert code == 1
    errors = [line for line in stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1 and "no longer there: was the disk unplugged?" in errors[0]
    (tmp_path / "elsewhere").rename(photos)
    code, _, stderr = blip2_chat("run", photos, "--out", out, "--model", tiny, "--max-new-tokens", "6")
    assert code == 0 and "done before" in stderr
    rows = rows_of(out)
    assert len(rows) == 200 and not any(row["error"] for row in rows)


def test_a_folder_that_was_done_and_moved_away_is_no_unplugged_disk(tiny: Path, tmp_path: Path) -> None:
    make_pictures(tmp_path / "a", 2)
    make_pictures(tmp_path / "b", 2, seed=1)
    opener = Opener(load_folder(tiny).preprocess, PictureLimits())
    assert opener(path_item(str(tmp_path / "a" / "p0000.png"))).error is None
    (tmp_path / "a").rename(tmp_path / "done")
    (tmp_path / "b" / "p0001.png").write_bytes(b"damaged")
    for name in ("p0001.png", "missing.png"):
        assert opener(path_item(str(tmp_path / "b" / name))).error is not None
    with pytest.raises(RunError, match="was the disk unplugged"):
        opener(path_item(str(tmp_path / "a" / "p0001.png")))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`disk(size)` -> a mounted file system of that size; again: the same one, resized."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str) -> Path:
        again = "remount," if os.path.ismount(folder) else ""
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"{again}size={size}", "tmpfs", folder], check=True)
        return folder

    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", folder], check=False, capture_output=True)


@LINUX_ROOT
def test_full_disk_keeps_what_is_done(tiny: Path, tmp_path: Path, disk: Callable[[str], Path]) -> None:
    photos = tmp_path / "photos"
    make_pictures(photos, 150)
    out = disk("100k") / "captions.jsonl"
    arguments = ["run", photos, "--out", out, "--model", tiny, "--max-new-tokens", "6", "--batch-size", "4"]
    code, _, stderr = blip2_chat(*arguments)
    assert code == 1 and "the disk is full; what was done is saved" in stderr
    assert len([line for line in stderr.splitlines() if line.startswith("Error")]) == 1
    disk("10M")
    code, _, stderr = blip2_chat(*arguments)
    assert code == 0 and "pictures were done before" in stderr
    assert len(rows_of(out)) == 150


@LINUX_ROOT
def test_unmounted_disk_is_noticed_though_its_mount_point_stays(
    tiny: Path, tmp_path: Path, disk: Callable[[str], Path]
) -> None:
    photos, out = disk("10M"), tmp_path / "captions.jsonl"
    make_pictures(photos, 200)
    with held(photos, out, tiny) as (process, go_on):
        subprocess.run(["umount", "-l", photos], check=True)
        go_on()
        code, _, stderr = finished(process)
    assert code == 1 and "was the disk unplugged?" in stderr
    assert not out.exists()


def test_unwritable_output_is_reported_before_the_model_is_loaded(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    make_pictures(photos, 1)
    code, _, stderr = blip2_chat("run", photos, "--out", tmp_path / "none" / "c.jsonl", "--model", "no/model")
    assert (
        code == 1
        and stderr.strip() == f"Error: there is no folder {tmp_path / 'none'}; make it, or give another place"
    )
    if sys.platform == "linux":
        code, _, stderr = blip2_chat("run", photos, "--out", "/proc/c.jsonl", "--model", "no/model")
        assert code == 1 and "/proc" in stderr and len(stderr.strip().splitlines()) == 1
