"""Conversions in processes of their own: killed at any moment, and two at once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blip2_chat.conversion.cache import is_whole
from tests.support.checkpoints import make_checkpoint

# Tells each new piece of news, and stops for good at a share of its work (beyond 1: never).
_CONVERT = """
import sys, time
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.conversion.convert import converted
source, stop = sys.argv[1], float(sys.argv[2])
checkpoint, last = inspect(source), None
def tell(what, done, total):
    global last
    if what != last:
        print(what.split()[0], flush=True)
        last = what
    if done > total * stop:
        print("stopped", flush=True)
        time.sleep(1000)
print("ready", flush=True)
print(converted(checkpoint, "int4", name="model", on_progress=tell).folder, flush=True)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that its conversion takes most of a second."""
    return make_checkpoint(
        tmp_path_factory.mktemp("source") / "model",
        vision={"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3},
        text={"hidden_size": 160, "word_embed_proj_dim": 160, "ffn_dim": 640, "num_hidden_layers": 3},
    )


@pytest.fixture
def start(source: Path) -> Iterator[Starter]:
    starter = Starter(source)
    yield starter
    for process, watchdog in zip(starter.processes, starter.watchdogs, strict=True):
        watchdog.cancel()
        process.kill()
        process.communicate()


class Starter:
    """Starts conversions of the source."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.processes: list[subprocess.Popen[str]] = []
        self.watchdogs: list[threading.Timer] = []

    def __call__(self, cache: Path, stop: float = 2.0) -> subprocess.Popen[str]:
        """A process that is about to convert into the cache, up to `stop` of the work."""
        process = subprocess.Popen(
            [sys.executable, "-c", _CONVERT, str(self.source), str(stop)],
            env={**os.environ, "BLIP2_CHAT_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        # So that nobody waits for the next word of one that hangs.
        self.watchdogs.append(threading.Timer(120, process.kill))
        self.watchdogs[-1].daemon = True
        self.watchdogs[-1].start()
        assert read(process) == "ready"
        return process


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finished(process: subprocess.Popen[str]) -> tuple[list[str], Path]:
    """What it told, and the folder that it made or found."""
    *told, folder = process.communicate(timeout=120)[0].split()
    assert process.returncode == 0
    return told, Path(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_any_moment(start: Starter, tmp_path: Path, kills: int) -> None:
    undisturbed = start(tmp_path / "undisturbed")
    begun = time.monotonic()
    reference = finished(undisturbed)[1]
    seconds = time.monotonic() - begun
    cache, dice = tmp_path / "cache", random.Random(0)
    target = cache / "converted" / reference.name
    partial = f".{target.name}.partial"
    for number in range(kills):
        if inside := number % 2 == 0:  # for certain in the middle of the work
            process = start(cache, stop=(number + dice.random()) / (kills + 1))
            assert "stopped" in iter(lambda told=process: read(told), "")
        else:  # anywhere, the last moments included
            process = start(cache)
            time.sleep(seconds * (number + dice.random()) / kills)
        process.kill()
        process.wait()
        left = [path.name for path in (cache / "converted").glob("*")] if cache.exists() else []
        assert set(left) <= {target.name, partial}
        assert not inside or left == [partial]
        if target.exists():
            assert is_whole(target), f"half-made after kill {number}"
            target.rename(tmp_path / f"finished-{number}")

    assert finished(start(cache))[1] == target
    assert [path.name for path in (cache / "converted").iterdir()] == [target.name]
    assert contents(target) == contents(reference)


def test_two_processes_convert_once(start: Starter, tmp_path: Path) -> None:
    first, second = start(tmp_path / "cache"), start(tmp_path / "cache")
    (told, folder), (other_told, other_folder) = finished(first), finished(second)
    assert folder == other_folder and is_whole(folder)
    # The second waits, or, started late on a busy machine, finds the result.
    assert sum("converting" in told for told in (told, other_told)) == 1


def test_a_waiting_conversion_takes_over_when_the_first_dies(start: Starter, tmp_path: Path) -> None:
    dying = start(tmp_path / "cache", stop=0.5)
    assert read(dying) in ("calibrating", "converting")
    waiting = start(tmp_path / "cache")
    assert read(waiting) == "waiting"
    dying.kill()
    dying.wait()
    told, folder = finished(waiting)
    assert told[0] in ("calibrating", "converting") and is_whole(folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
