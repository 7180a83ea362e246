"""Memory and speed of the torch engine at every precision, on this machine's GPU: opt-2.7b's true shape.

    python -m benchmarks.gpu                               # a CUDA GPU, 7.5 GB of disk, a few minutes
    python -m benchmarks.gpu --device cpu --name demo      # a check of the benchmark itself, on any machine

Synthetic weights in the official layout are made once; speed and memory do not depend on their values. Each
precision is loaded in a process of its own, so that its memory is only its own, and asked the same question.
"fp16+graphs" is fp16 with steps as CUDA graphs (`TorchEngine.use_graphs`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from .child import figures_of, tell
from .documents import markdown
from .measure import QUESTION, picture

PRECISIONS = ("fp16", "fp16+graphs", "bf16", "bf16+graphs", "int8", "int4")
_GRAPHS = "+graphs"


def measure(folder: str, precision: str, device: str, words: int) -> dict[str, Any]:
    """One precision: bytes and seconds. The GPU is waited for before each look at the clock."""
    import torch

    import blip2_chat
    from blip2_chat.engines.torch.engine import TorchEngine
    from blip2_chat.generation.loop import Batch
    from blip2_chat.generation.rows import Task
    from blip2_chat.generation.settings import Decoding
    from blip2_chat.images import to_pixels

    on_gpu = device.startswith("cuda")

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    begun = now()
    model = blip2_chat.load(
        folder, engine="torch", precision=precision.removesuffix(_GRAPHS), device=device, force=True
    )
    engine = model.engine
    assert isinstance(engine, TorchEngine)
    figures: dict[str, Any] = {"precision": precision, "load": now() - begun}
    figures["weights"] = torch.cuda.memory_allocated() if on_gpu else engine.weight_bytes
    if precision.endswith(_GRAPHS):
        engine.use_graphs()
    pixels = to_pixels(model.open(picture()), model.preprocess)
    prompt, instruction = model.tokenizer.encode(QUESTION), model.tokenizer.instruction(QUESTION)
    decoding = Decoding.of(max_new_tokens=words + 1, min_new_tokens=words + 1)
    for _ in range(2):  # the first time kernels are chosen and memory is taken
        begun = now()
        vectors = engine.query(engine.encode_image(pixels), [instruction])
        figures["encode"] = now() - begun
        batch = Batch(engine, model.tokenizer)
        batch.join(vectors, [Task(prompt, decoding)])
        times = []
        while batch.members:
            batch.choose()
            times.append(now())
            batch.step()
        figures["first_word"] = times[0] - begun
        figures["per_word"] = statistics.median(np.diff(times).tolist())
    figures["peak"] = torch.cuda.max_memory_allocated() if on_gpu else None
    figures["graphs_off"] = engine.graphs_off
    return figures


def machine(device: str) -> str:
    import torch

    where = torch.cuda.get_device_name() if device.startswith("cuda") else f"{os.cpu_count()} CPU cores"
    return f"{where}, torch {torch.__version__}"


def table(results: list[dict[str, Any]]) -> str:
    rows = [
        (one["precision"], one["failed"], *[""] * 5)
        if "failed" in one
        else (
            one["precision"],
            f"{one['weights'] / 1e9:.3g} GB",
            "" if one["peak"] is None else f"{one['peak'] / 1e9:.2f} GB",
            f"{one['load']:.1f} s",
            f"{one['encode'] * 1e3:.0f} ms",
            f"{one['first_word'] * 1e3:.0f} ms",
            f"{one['per_word'] * 1e3:.1f} ms",
        )
        for one in results
    ]
    figures = markdown(("precision", "weights", "peak", "load", "picture", "first word", "per word"), rows)
    off = [
        f"{one['precision']}: plain steps, since {one['graphs_off']}"
        for one in results
        if one.get("graphs_off")
    ]
    return figures + "\n".join(off)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--name", default="Salesforce/blip2-opt-2.7b", help="whose shape; demo is the embedded model"
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, metavar="PRECISION", help=", ".join(PRECISIONS)
    )
    parser.add_argument("--words", type=int, default=32)
    parser.add_argument("--bound", type=float, default=600, metavar="SECONDS", help="for one precision")
    parser.add_argument("--work", type=Path, help="keeps the synthetic checkpoint here")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    precisions = options.precisions or [
        one for one in PRECISIONS if options.device.startswith("cuda") or not one.endswith(_GRAPHS)
    ]
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.one:
        tell(measure(options.folder, options.one, options.device, options.words))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.name
        if options.name != "demo":
            from .synthetic import write_checkpoint

            path = (options.work or Path(temporary)) / "checkpoint"
            if not (path / "config.json").exists():
                write_checkpoint(path, options.name)
            folder = str(path)
        print(f"{options.name} on {machine(options.device)}", flush=True)
        given = ("--folder", folder, "--device", options.device, "--words", options.words)
        results = [
            {"precision": precision, **figures_of("gpu", *given, "--one", precision, seconds=options.bound)}
            for precision in precisions
        ]
    print(table(results))


if __name__ == "__main__":
    main()
