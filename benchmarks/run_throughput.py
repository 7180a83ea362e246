"""Captions per minute: `blip2-chat run`'s pipeline against a plain transformers loop, and its memory over a long run.

    python -m benchmarks.run_throughput                    # the embedded model, and memory over 20,000 pictures
    python -m benchmarks.run_throughput --work FOLDER      # also opt-2.7b's shape, on what full_size.py left there

With --work, each measurement is written to WORK/run_throughput.json as it finishes, and the same command resumes.
One that fails, or takes longer than --bound, becomes a row that says so.

Each figure comes from a process of its own. The big model's weights are synthetic, so every caption is made to have
the same number of tokens for both; pictures are JPEG files of 1024 x 768 on disk. The table is printed; with all
of it measured, docs/run_throughput.json and the tables in the documents are rewritten.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from blip2_chat.system.memory import peak_memory

from .child import Deadline, Kept, figures_of, tell
from .documents import ROOT, keep, markdown, put
from .full_size import MISSING, machine

RESULTS = "run_throughput.json"
# Tokens of a caption: BLIP-2's own on photographs have 8 to 15.
TOKENS = 12
EMBEDDED = "the embedded model"
BIG = "opt-2.7b's shape"


def write_pictures(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Smooth pictures with a little noise, no two alike, as JPEG files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=85)
    return folder


def measure_run(model: str, photos: Path, tokens: int) -> None:
    """The run as the command does it: journal, commits and output included. The first pictures warm it up. Reported
    with every batch, so that a run that takes too long keeps what it had."""
    import blip2_chat
    from blip2_chat.batch.captioner import Tasks
    from blip2_chat.batch.options import RunOptions
    from blip2_chat.batch.result import Result
    from blip2_chat.batch.run import Run
    from blip2_chat.batch.sizing import threads

    running = blip2_chat.load(model, threads=threads(model), force=True)
    times: list[tuple[float, float, int]] = []
    sizes = []

    def told(results: Sequence[Result]) -> None:
        done = times[-1][2] if times else 0
        times.append((time.perf_counter(), time.process_time(), done + len(results)))
        sizes.append(len(results))
        (first, first_cpu, before), (last, last_cpu, count) = times[0], times[-1]
        if count == before:
            return
        tell(
            {
                "per_minute": 60 * (count - before) / (last - first),
                "pictures": count - before,
                "cpu_seconds": (last_cpu - first_cpu) / (count - before),
                "batch": max(sizes),
                "precision": running.engine.precision,
                "peak_memory": peak_memory(),
            }
        )

    tasks = Tasks(1, (), {"max_new_tokens": tokens, "min_new_tokens": tokens})
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions((photos,), tasks, os.path.join(folder, "captions.jsonl"))
        with Run(options, {}) as run:
            run.go(running, told)


def measure_loop(folder: str, precision: str, photos: Path, tokens: int) -> None:
    """The loop that a tutorial shows: open, processor, generate, decode, one picture after the other. Reported with
    every picture."""
    import torch
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    processor = Blip2Processor.from_pretrained(folder)
    model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    times = []
    for path in sorted(photos.iterdir()):
        image = Image.open(path).convert("RGB")
        inputs = processor(images=image, return_tensors="pt").to(dtype=dtype)
        written = model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        processor.batch_decode(written, skip_special_tokens=True)
        times.append((time.perf_counter(), time.process_time()))
        count = len(times) - 1
        if count:
            tell(
                {
                    "per_minute": 60 * count / (times[-1][0] - times[0][0]),
                    "pictures": count,
                    "cpu_seconds": (times[-1][1] - times[0][1]) / count,
                    "batch": 1,
                    "precision": precision,
                    "peak_memory": peak_memory(),
                }
            )


def measure_memory(photos: Path) -> None:
    """Resident memory while a collection of small pictures goes through a tiny model; reported every thousand."""
    import blip2_chat
    from blip2_chat.batch.captioner import Tasks
    from blip2_chat.batch.options import RunOptions
    from blip2_chat.batch.result import Result
    from blip2_chat.batch.run import Run
    from tests.support.checkpoints import make_checkpoint

    sizes: list[tuple[int, int]] = []
    done = 0
    begun = time.perf_counter()

    def report() -> None:
        # The first thousands load libraries, fill queues and grow batches.
        settled = next(size for count, size in sizes if count >= sizes[-1][0] // 4)
        tell(
            {
                "pictures": done,
                "per_minute": 60 * done / (time.perf_counter() - begun),
                "resident": [{"pictures": count, "bytes": size} for count, size in sizes],
                "growth": sizes[-1][1] - settled,
            }
        )

    def count(results: Sequence[Result]) -> None:
        nonlocal done
        done += len(results)
        if not sizes or done - sizes[-1][0] >= 1000:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            sizes.append((done, resident))
            report()

    with tempfile.TemporaryDirectory() as folder:
        model = blip2_chat.load(make_checkpoint(Path(folder) / "tiny"), threads=1)
        options = RunOptions((photos,), Tasks(1, (), {"max_new_tokens": 4}), os.path.join(folder, "c.jsonl"))
        begun = time.perf_counter()
        with Run(options, {}) as run:
            run.go(model, count)
    report()


def table(rows: list[dict[str, Any]]) -> Table:
    made = Table(title="Captions per minute")
    for column in HEADINGS:
        made.add_column(column)
    for cells in rows_of(rows):
        made.add_row(*cells)
    return made


HEADINGS = ("model", "by", "captions per minute", "at a time", "CPU time each", "memory")


def rows_of(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The figures as text, and in brackets how many times the plain loop's captions."""

    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        base = next((one for one in rows if one["model"] == row["model"] and one["by"] == "loop"), row)
        what = "a plain transformers loop" if row["by"] == "loop" else "**blip2-chat run**"
        if "per_minute" not in row:
            failed = f"could not be measured: {row['failed']}"
            return (row["model"], what, failed, MISSING, MISSING, MISSING)
        compared = base is not row and "per_minute" in base
        times = f" ({row['per_minute'] / base['per_minute']:.1f}×)" if compared else ""
        return (
            row["model"],
            f"{what}, {row['precision']}",
            f"{row['per_minute']:{',.0f' if row['per_minute'] >= 1000 else '.3g'}}{times}",
            str(row["batch"]),
            f"{row['cpu_seconds']:.2g} s",
            f"{row['peak_memory'] / 1e9:.2g} GB",
        )

    return [cells(row) for row in rows]


def short_table(results: dict[str, Any]) -> str:
    """For the README."""
    chosen = [HEADINGS.index(one) for one in ("model", "by", "captions per minute", "memory")]
    rows = [[row[at] for at in chosen] for row in rows_of(results["runs"])]
    return markdown([f"{results['machine']['cores']} cores", *(HEADINGS[at] for at in chosen[1:])], rows)


def memory_line(measured: dict[str, Any]) -> str:
    """What memory did over the long run."""
    if "resident" not in measured:
        return f"Memory over a long run could not be measured: {measured['failed']}."
    first, last = measured["resident"][0]["bytes"] / 1e6, measured["resident"][-1]["bytes"] / 1e6
    return (
        f"{measured['pictures']:,} small pictures in one run: {first:.0f} MB resident after the first batch, "
        f"{last:.0f} MB at the end, {measured['growth'] / 1e6:+.1f} MB over the last three quarters."
    )


def main() -> None:
    if sys.argv[1:2] == ["run"]:
        measure_run(sys.argv[2], Path(sys.argv[3]), TOKENS)
        return
    if sys.argv[1:2] == ["loop"]:
        measure_loop(sys.argv[2], sys.argv[3], Path(sys.argv[4]), TOKENS)
        return
    if sys.argv[1:2] == ["memory"]:
        measure_memory(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--work", type=Path, help="a folder with full_size.py's checkpoint and converted-int4"
    )
    parser.add_argument("--pictures", type=int, default=240, help="of the embedded model's run")
    parser.add_argument("--big-pictures", type=int, default=33)
    parser.add_argument("--loop-pictures", type=int, default=3, help="of the big model's plain loop")
    parser.add_argument("--loop-precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--long", type=int, default=20_000, help="pictures of the memory run; 0: none")
    parser.add_argument("--bound", type=float, default=150, metavar="SECONDS", help="for one measurement")
    parser.add_argument("--seconds", type=float, default=3600, help="for all of it")
    options = parser.parse_args()
    deadline = Deadline(options.seconds)
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    results: dict[str, Any] = {"machine": machine(), "tokens": TOKENS, "runs": rows}
    embedded = str(ROOT / "src" / "blip2_chat" / "demo")
    with tempfile.TemporaryDirectory() as folder:
        counts = [options.pictures, options.big_pictures, options.loop_pictures, options.long]
        conditions = {"machine": results["machine"], "tokens": TOKENS, "counts": counts}
        kept = Kept((options.work or Path(folder)) / "run_throughput.json", conditions)

        def photos(count: int, size: tuple[int, int] = (1024, 768)) -> Path:
            made = Path(folder) / f"{count}-{size[0]}"
            return made if made.exists() else write_pictures(made, count, size)

        def child(name: str, *arguments: object, pictures: Path) -> dict[str, Any]:
            figures = kept.get(name)
            if figures is None:
                console.log(name)
                seconds = min(options.bound, deadline.left())
                figures = figures_of("run_throughput", *arguments, pictures, seconds=seconds)
                kept.put(name, figures)
            if "failed" in figures:
                console.log(f"{name}: {figures['failed']}")
            return figures

        def row(model: str, by: str, *arguments: object, pictures: Path) -> None:
            figures = child(f"{model}, {by}", by, *arguments, pictures=pictures)
            rows.append({"model": model, "by": by, **figures})

        some = photos(options.pictures)
        row(EMBEDDED, "loop", embedded, "fp32", pictures=some)
        row(EMBEDDED, "run", "demo", pictures=some)
        if options.work:
            checkpoint, converted = options.work / "checkpoint", options.work / "converted-int4"
            precision = options.loop_precision
            row(BIG, "loop", checkpoint, precision, pictures=photos(options.loop_pictures))
            row(BIG, "run", converted, pictures=photos(options.big_pictures))
        if options.long:
            name = f"memory over {options.long:,} pictures"
            results["memory"] = child(name, "memory", pictures=photos(options.long, (64, 48)))
    Console(width=140).print(table(rows))
    if options.long:
        print(memory_line(results["memory"]))
    if options.long and options.work:
        keep(RESULTS, results)
        put("README.md", RESULTS, short_table(results))
        put(
            "docs/run.md", RESULTS, f"{markdown(HEADINGS, rows_of(rows))}\n{memory_line(results['memory'])}\n"
        )


if __name__ == "__main__":
    main()
