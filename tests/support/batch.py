"""What the tests of runs share: pictures, a model's folder, and runs in processes that can be killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from blip2_chat.batch.captioner import Tasks
from blip2_chat.batch.options import RunOptions
from blip2_chat.batch.result import Result
from blip2_chat.batch.run import Run, Summary
from blip2_chat.checkpoint.tokenizer import Tokenizer
from blip2_chat.engines.onnx.run.session import load_onnx_engine
from blip2_chat.images import Preprocess
from blip2_chat.model import Model
from tests.support import forking

SETTINGS = {"max_new_tokens": 6}
TASKS = Tasks(captions=1, questions=("how many?",), settings=SETTINGS)


def make_pictures(folder: Path, count: int, seed: int = 0, first: int = 0) -> list[Path]:
    """Small pictures, no two alike, in a folder and one inside it; numbered from `first`."""
    draw = random.Random(seed)
    made = []
    for number in range(first, first + count):
        inner = folder / "inner" if number % 4 == 3 else folder
        inner.mkdir(parents=True, exist_ok=True)
        colours = [draw.randrange(256) for _ in range(12)] + [number % 256, number // 256, 0]
        picture = Image.frombytes("RGB", (5, 1), bytes(colours)).resize((24, 20))
        path = inner / f"p{number:04}.png"
        picture.save(path)
        made.append(path)
    return sorted(made, key=lambda path: (path.parent.name == "inner", path.name))


def digest(path: Path) -> str:
    """What a run records of a picture: sha256 of its size and RGB pixels, here by Pillow alone."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    head = f"{upright.width}x{upright.height} RGB\n".encode()
    return hashlib.sha256(head + upright.tobytes()).hexdigest()


def load_folder(folder: Path) -> Model:
    """A converted folder as a model, on one thread: tests share their cores."""
    engine = load_onnx_engine(folder, threads=1)
    tokenizer = Tokenizer.from_folder(folder, engine.config)
    return Model(engine, tokenizer, Preprocess.from_folder(folder), "tiny")


class Score(float):
    """A score that equals another up to rounding: on some CPUs sums are made in another order in other batches."""

    def __eq__(self, other: object) -> bool:
        return abs(float(self) - other) < 1e-5 if isinstance(other, float) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """A JSONL result without what differs between two runs."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        del row["seconds"]
        if row["score"] is not None:
            row["score"] = Score(row["score"])
    return rows


def go(running: Model, options: RunOptions, **settings: Any) -> tuple[Summary, list[Result]]:
    """A run in this process: its summary, and the results in the order in which they were reported."""
    told: list[Result] = []
    with Run(options, {"model": "tiny"} | settings) as run:
        return run.go(running, told.extend), told


def options(photos: Path, out: Path, **more: Any) -> RunOptions:
    """A caption and an answer for each picture of a folder, four at a time."""
    return RunOptions((photos,), more.pop("tasks", TASKS), str(out), batch_size=4, **more)


def whole_run(folder: Path, options: RunOptions, told: Path | None = None) -> None:
    """A run in this process; `told` gets a line for each result at the moment it is reported."""
    model = load_folder(folder)

    def tell(results: Sequence[Any]) -> None:
        if told is not None:
            with told.open("a", encoding="utf-8") as file:
                file.write("".join(f"{one.path}\n" for one in results))

    with Run(options, {"model": "tiny"}) as run:
        run.go(model, tell)


def fork_run(folder: Path, options: RunOptions, told: Path | None = None) -> Any:
    """`whole_run` in a process of its own, started."""
    process = forking.process(whole_run, folder, options, told)
    process.start()
    return process


def command(*arguments: str | Path, before: str = "", **environment: str) -> subprocess.Popen[str]:
    """`blip2-chat ...` as a user starts it; `before`: Python that is run first."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{before}\nfrom blip2_chat.cli import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr; what goes on for too long is killed."""
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err
