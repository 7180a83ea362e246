"""blip2-opt-2.7b's true shape on this machine: transformers, bitsandbytes and this package, side by side.

    python -m benchmarks.full_size              # about 7 minutes, 22 GB of memory and 30 GB of disk on 2 cores
    python -m benchmarks.full_size --quick      # a tiny shape in seconds, to check the benchmark itself

Synthetic weights are made, each runtime answers the same question in a process of its own, and one table with
ratios is printed; docs/benchmark.json and docs/benchmark.svg are rewritten.

With --work, each runtime's figures are written to WORK/full_size.json as it finishes, and the same command resumes an
interrupted benchmark. A runtime that fails, or takes longer than --bound, becomes a row that says so.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .bandwidth import cores
from .child import Deadline, Kept, figures_of
from .documents import DOCS, keep, markdown, put
from .plot import name_of, plot
from .synthetic import TINY, TINY_INSTRUCT, write_checkpoint

RESULTS = "benchmark.json"
BASE = ("transformers", "fp32")
DOCUMENTED = "Salesforce/blip2-opt-2.7b"
WORDS = 16  # of the answer to the first question, which the second one's prompt holds
RUNS = [
    ("transformers", "fp32"),
    ("transformers", "bf16"),
    ("transformers", "int8"),
    ("blip2-chat", "fp32"),
    ("blip2-chat", "int8"),
    ("blip2-chat", "int4"),
]
SLOW_WITHOUT_AVX512 = {("transformers", "bf16"), ("transformers", "int8")}


def run(work: Path, checkpoint: Path, runtime: str, precision: str, seconds: float) -> dict[str, Any]:
    """The figures of one runtime, measured in a process of its own; its conversion, where it needs one, before.

    `seconds` are for each of the two."""
    about: dict[str, Any] = {"runtime": runtime, "precision": precision}
    if seconds <= 0:
        return about | {"failed": "not measured: no time left"}
    folder = checkpoint
    if runtime == "blip2-chat":
        folder = work / f"converted-{precision}"
        if not folder.exists():
            start = time.perf_counter()
            about |= figures_of("convert", checkpoint, folder, precision, seconds=seconds)
            if "failed" in about:
                return about | {"failed": f"conversion: {about['failed']}"}
            about["convert"] = time.perf_counter() - start
    about["disk"] = folder_size(folder)
    read(folder)
    kind = "onnx" if runtime == "blip2-chat" else runtime
    return about | figures_of("measure", kind, folder, precision, "--words", WORDS, seconds=seconds)


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def read(folder: Path) -> None:
    """Brings the files into the disk cache, so that no runtime waits for the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


MISSING = "–"
HEADINGS = ("", "load", "picture", "first token", "per token", "follow-up", "memory", "disk", "of the limit")


def rows_of(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """The figures as text, and in brackets how many times better than transformers fp32 in the same run."""
    rows = results["runs"]
    base = next((row for row in rows if (row["runtime"], row["precision"]) == BASE), None)

    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        def cell(key: str, scale: float, unit: str) -> str:
            if key not in row:
                return MISSING
            times = f" ({base[key] / row[key]:.1f}×)" if base and row is not base and key in base else ""
            return f"{row[key] / scale:.3g} {unit}{times}"

        seconds = [cell(key, 1, "s") for key in ("load", "encode", "first_word", "per_word", "follow_up")]
        return (
            name_of(row),
            *seconds,
            cell("peak_memory", 1e9, "GB"),
            cell("disk", 1e9, "GB"),
            f"{row['share_of_limit']:.0%}" if "share_of_limit" in row else MISSING,
        )

    return [cells(row) for row in rows]


def table(results: dict[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title=f"{results['model']}'s shape, {results['machine']['cores']} cores")
    for column in HEADINGS:
        shown.add_column(column, justify="right" if column else "left")
    for row in rows_of(results):
        shown.add_row(*row)
    return shown


def short_table(results: dict[str, Any]) -> str:
    """For the README: the columns that people wait for, ours in bold; and why figures are missing."""
    chosen = [HEADINGS.index(one) for one in ("", "first token", "per token", "follow-up", "memory", "disk")]
    headings = [f"{results['machine']['cores']} cores", *(HEADINGS[at] for at in chosen[1:])]
    rows = []
    for row, figures in zip(rows_of(results), results["runs"], strict=True):
        cells = [row[at] for at in chosen]
        if figures["runtime"] == "blip2-chat":
            cells[0] = f"**{cells[0]}**"
        rows.append(cells)
    return markdown(headings, rows) + failures(results)


def failures(results: dict[str, Any]) -> str:
    """Why figures are missing: a paragraph, or nothing."""
    failed = [f"{name_of(row)} ({row['failed']})" for row in results["runs"] if "failed" in row]
    return f"\n{MISSING}: could not be measured: {', '.join(failed)}.\n" if failed else ""


def long_table(results: dict[str, Any]) -> str:
    """For docs/benchmark.md: all of them, and what the conversion took."""
    converted = ", ".join(
        f"{row['precision']} {row['convert']:.0f} s and {row['convert_memory'] / 1e9:.2g} GB of memory"
        for row in results["runs"]
        if "convert" in row
    )
    before = f"\nThe one conversion before: {converted}.\n" if converted else ""
    return markdown([" ", *HEADINGS[1:]], rows_of(results)) + failures(results) + before


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": cores(),
        "system": platform.platform(),
        "versions": {
            name: version(name) for name in ("torch", "transformers", "bitsandbytes", "onnxruntime", "numpy")
        },
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if flag in flags]
    return f"{name} ({', '.join(known)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", default=DOCUMENTED, help="whose shape; the documents stay as they are for others"
    )
    parser.add_argument(
        "--work", type=Path, help="keep checkpoint, conversions and figures here, and resume from them"
    )
    parser.add_argument("--only", nargs="*", help="such as transformers-fp32 blip2-chat-int8")
    parser.add_argument("--bound", type=float, default=120, metavar="SECONDS", help="for one runtime")
    parser.add_argument("--seconds", type=float, default=3600, help="for all of it")
    parser.add_argument("--quick", action="store_true", help="a tiny shape; the documents stay as they are")
    options = parser.parse_args()
    deadline = Deadline(options.seconds)
    work = options.work or Path(tempfile.mkdtemp(prefix="blip2-chat-bench-"))
    console = Console(stderr=True)
    try:
        work.mkdir(parents=True, exist_ok=True)
        model = options.model
        if options.quick:
            model = TINY_INSTRUCT if "instructblip" in model else TINY
        results: dict[str, Any] = {"model": model, "machine": machine(), "runs": []}
        kept = Kept(work / "full_size.json", {"model": model, "machine": results["machine"], "words": WORDS})
        checkpoint = work / "checkpoint"
        if not (checkpoint / "tokenizer_config.json").exists():
            console.log("writing synthetic weights")
            write_checkpoint(checkpoint, model)
        # What may take its whole bound without AVX-512 comes last: the rest is not to lack its time.
        for runtime, precision in sorted(RUNS, key=SLOW_WITHOUT_AVX512.__contains__):
            name = f"{runtime}-{precision}"
            if options.only and name not in options.only:
                continue
            figures = kept.get(name)
            if figures is None:
                console.log(f"{runtime} {precision}")
                seconds = min(options.bound, deadline.left())
                figures = kept.put(name, run(work, checkpoint, runtime, precision, seconds))
            else:
                console.log(f"{runtime} {precision}: measured before, in {work}")
            if "failed" in figures:
                console.log(f"{runtime} {precision}: {figures['failed']}")
            results["runs"].append(figures)
            if not options.work and runtime == "blip2-chat":
                shutil.rmtree(work / f"converted-{precision}", ignore_errors=True)
        results["runs"].sort(key=lambda row: RUNS.index((row["runtime"], row["precision"])))
        if not options.only and not options.quick and options.model == DOCUMENTED:
            keep(RESULTS, results)
            plot(results, DOCS / "benchmark.svg")
            put("README.md", RESULTS, short_table(results))
            put("docs/benchmark.md", RESULTS, long_table(results))
        Console(width=150).print(table(results))
        print(failures(results).strip())
    finally:
        if not options.work:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
