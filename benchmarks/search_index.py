"""An index of 100,000 pictures: time and memory of a query, and the recall of the approximate
search against an exact one.

    python -m benchmarks.search_index                    # an hour on a busy machine, 5 GB of disk
    python -m benchmarks.search_index --pictures 10000

The embeddings are synthetic, 32 of 256 numbers for each picture as in the official checkpoints: pictures are of many
kinds, and each embedding is what its picture shows, with noise. The queries are kinds with noise. Embeddings of real
pictures and texts lie closer together, so the recall of an index is measured when it is made; this one is of these.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from blip2_chat.search import approximate
from blip2_chat.search.store import About, Entry, Maker, Store

from .documents import markdown

QUERIES, SIZE = 32, 256
KINDS = 2_000
_BATCH = 500
_MEASURED = 20
HEADINGS = ["pictures", "search", "time", "CPU time", "recall"]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def pictures(count: int, kinds: np.ndarray, rng: np.random.Generator) -> Iterator[list[Entry]]:
    for first in range(0, count, _BATCH):
        size = min(_BATCH, count - first)
        shown = kinds[rng.integers(0, len(kinds), size)] + 0.7 * noise(rng, (size, SIZE))
        vectors = unit(shown[:, None] * 0.6 + 0.8 * noise(rng, (size, QUERIES, SIZE)))
        yield [
            Entry(f"k{number}", f"p{number}.jpg", digest=f"{number:064x}", width=640, height=480, vectors=one)
            for number, one in enumerate(vectors, first)
        ]


def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def measure(count: int, folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    kinds = noise(rng, (KINDS, SIZE))
    maker = Maker("synthetic", "onnx", "fp32", "0" * 64, QUERIES, SIZE, (257, 1408))
    store = Store.create(str(folder / "x.index"), About(maker))
    started = time.perf_counter()
    for batch in pictures(count, kinds, rng):
        store.put(batch, replacing=False)
    store.tidy()
    told("stored", started)
    asked = unit(kinds[: 16 + _MEASURED] + 0.5 * noise(rng, (16 + _MEASURED, SIZE)))
    started, cpu = time.perf_counter(), time.process_time()
    found = approximate.make(store, QUERIES, asked[:16])
    built = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    told(f"made {found}", started)
    store.tidy()
    exact = [queried(store, text, None) for text in asked[16:]]
    told("exact", started)
    for text in asked[16:]:
        queried(store, text, found)
    before = memory()
    quick = [queried(store, text, found) for text in asked[16:] for _ in range(5)]
    shares = [len(quick[5 * number][0] & keys) / len(keys) for number, (keys, *_) in enumerate(exact)]
    return {
        "pictures": count,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "partitions": found.partitions,
        "probes": found.probes,
        "recall_of": found.of,
        "recall": float(np.mean(shares)),
        "built": built,
        "exact": figures(exact),
        "approximate": figures(quick),
        "memory_grown_mb": memory() - before,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "disk_mb": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6,
    }


def queried(store: Store, text: np.ndarray, how: Any) -> tuple[set[str], float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    keys = {one.key for one, _ in store.nearest(text[None], approximate.OF, how)}
    return keys, time.perf_counter() - started, time.process_time() - cpu


def figures(runs: list[tuple[set[str], float, float]]) -> dict[str, float]:
    return {
        "seconds": float(np.median([seconds for _, seconds, _ in runs])),
        "fastest": min(seconds for _, seconds, _ in runs),
        "cpu_seconds": float(np.median([cpu for *_, cpu in runs])),
    }


def memory() -> float:
    """MB that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def told(what: str, started: float) -> None:
    print(f"{what}: {time.perf_counter() - started:.0f} s, {memory():.0f} MB", flush=True)


def table(runs: list[dict[str, Any]]) -> str:
    rows = []
    for one in runs:
        for how, recall in (("exact", "100 %"), ("approximate", f"{100 * one['recall']:.1f} %")):
            took = one[how]
            rows.append(
                [
                    f"{one['pictures']:,}",
                    how,
                    f"{1000 * took['seconds']:,.0f} ms",
                    f"{1000 * took['cpu_seconds']:,.0f} ms",
                    recall,
                ]
            )
    return markdown(HEADINGS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path, default=None, help="where there is room")
    given = parser.parse_args()
    runs = []
    for count in given.pictures:
        folder = Path(tempfile.mkdtemp(dir=given.folder))
        try:
            runs.append(measure(count, folder))
            print(runs[-1], flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(runs))


if __name__ == "__main__":
    main()
