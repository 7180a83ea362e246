"""Teaches the embedded model a 58th kind of thing, robots, from 200 examples, and measures what it learnt and lost.

    python -m benchmarks.teaching [--folder teaching-work] [--examples 200] [--old 900] [--epochs 12] [--limit N]

Everything is made here: examples (`examples.py`), adapter (`blip2-chat tune`), and the answers to new pictures
and to the held-out questions of the set `seen`, with the adapter and without it. Run it again to go on after a kill.
Times are processor time, because other programs on the machine do not change it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .examples import Maker, write

_TEST_PICTURES = 300
_TEACH, _OLD, _TEST = 1, 2, 3  # seeds


def make(folder: Path, examples: int, old: int) -> None:
    """robots.csv and old.csv to learn from, test.csv to be asked about afterwards."""
    if not (folder / "test.csv").is_file():
        first, second = Maker(0), Maker(1)
        write(list(first.rows(examples, _TEACH)), folder, "robots")
        write(list(first.old(old, _OLD)), folder, "old")
        write(list(second.rows(_TEST_PICTURES, _TEST)), folder, "test")


def evaluate(sets: list[str], adapter: Path | None, limit: int | None) -> list[dict[str, Any]]:
    """What `blip2-chat evaluate` finds of each set."""
    command = [sys.executable, "-m", "blip2_chat", "evaluate", "--json"]
    for one in sets:
        command += ["--set", one]
    command += [] if adapter is None else ["--adapter", str(adapter)]
    command += [] if limit is None else ["--limit", str(limit)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("teaching-work"))
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--old", type=int, default=900)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--limit", type=int, help="questions of each set; all by default")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    make(folder, arguments.examples, arguments.old)
    adapter = folder / "adapter"
    command = [sys.executable, "-m", "blip2_chat", "tune", str(folder / "robots.csv")]
    command += ["--replay", str(folder / "old.csv"), "--out", str(adapter), "--epochs", str(arguments.epochs)]
    before = os.times()
    subprocess.run(command, check=True)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    sets = [str(folder / "test.csv"), "seen"]
    rows = [evaluate(sets, one, arguments.limit) for one in (None, adapter)]
    print(f"{seconds:.0f} s of processor time (of this call) to train")
    print("| questions | without | with the adapter |\n| --- | ---: | ---: |")
    for plain, taught in zip(*rows, strict=True):
        print(f"| {Path(plain['set']).name} | {plain['exact_match']:.1%} | {taught['exact_match']:.1%} |")


if __name__ == "__main__":
    main()
