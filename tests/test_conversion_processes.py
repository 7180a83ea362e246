"""Conversions in processes of their own: killed at any moment, and two at once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blip2_chat.conversion_cache import is_whole
from tests.checkpoints import make_checkpoint

# Tells each new piece of news, and, when asked to, stops for good half-way.
_CONVERT = """
import sys, time
from blip2_chat.checkpoint import inspect
from blip2_chat.conversion import converted
source, stops = sys.argv[1], sys.argv[2] == "stops"
checkpoint, last = inspect(source), None
def tell(what, done, total):
    global last
    if what != last:
        print(what.split()[0], flush=True)
        last = what
    while stops and done > total / 2:
        time.sleep(1)
print("ready", flush=True)
print(converted(checkpoint, "int4", name="model", on_progress=tell), flush=True)
"""
KILLS = 10


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that its conversion takes most of a second."""
    return make_checkpoint(
        tmp_path_factory.mktemp("source") / "model",
        vision={"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6},
        text={"hidden_size": 320, "word_embed_proj_dim": 320, "ffn_dim": 1280, "num_hidden_layers": 6},
    )


@pytest.fixture
def start(source: Path) -> Iterator[Starter]:
    starter = Starter(source)
    yield starter
    for process in starter.processes:
        process.kill()
        process.communicate()


class Starter:
    """Starts conversions of the source."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.processes: list[subprocess.Popen[str]] = []

    def __call__(self, cache: Path, stops: bool = False) -> subprocess.Popen[str]:
        """A process that is about to convert into the cache."""
        process = subprocess.Popen(
            [sys.executable, "-c", _CONVERT, str(self.source), "stops" if stops else "goes on"],
            env={**os.environ, "BLIP2_CHAT_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
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


def test_killed_at_any_moment(start: Starter, tmp_path: Path) -> None:
    undisturbed = start(tmp_path / "undisturbed")
    begun = time.monotonic()
    reference = finished(undisturbed)[1]
    seconds = time.monotonic() - begun
    cache, dice = tmp_path / "cache", random.Random(0)
    target = cache / "converted" / reference.name
    interrupted = 0
    for number in range(KILLS):
        process = start(cache)
        # Spread over the whole conversion, its last moments included.
        time.sleep(seconds * (number + dice.random()) / KILLS)
        process.kill()
        process.wait()
        left = [path.name for path in (cache / "converted").glob("*")] if cache.exists() else []
        interrupted += f".{target.name}.partial" in left
        assert set(left) <= {target.name, f".{target.name}.partial"}
        if target.exists():
            assert is_whole(target), f"half-made after kill {number}"
            target.rename(tmp_path / f"finished-{number}")
    assert interrupted >= KILLS / 3, "the kills came too early or too late to test anything"

    assert finished(start(cache))[1] == target
    assert [path.name for path in (cache / "converted").iterdir()] == [target.name]
    assert contents(target) == contents(reference)


def test_two_at_once_convert_once(start: Starter, tmp_path: Path) -> None:
    first, second = start(tmp_path / "cache"), start(tmp_path / "cache")
    (told, folder), (other_told, other_folder) = finished(first), finished(second)
    assert folder == other_folder and is_whole(folder)
    # The second waits, or, started late on a busy machine, finds the result.
    assert sum("converting" in told for told in (told, other_told)) == 1


def test_the_one_who_waits_takes_over_from_the_one_who_dies(start: Starter, tmp_path: Path) -> None:
    dying = start(tmp_path / "cache", stops=True)
    assert read(dying) == "converting"
    waiting = start(tmp_path / "cache")
    assert read(waiting) == "waiting"
    dying.kill()
    dying.wait()
    told, folder = finished(waiting)
    assert told[0] == "converting" and is_whole(folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
