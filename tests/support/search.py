"""What the tests of indexes share: indexing in this process, and in one that can be killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blip2_chat.retriever_loading import load_retriever
from blip2_chat.search.indexing import Indexing, IndexOptions, Summary
from blip2_chat.search.store import Entry, Store
from tests.support import forking


def indexed(retriever: Any, options: IndexOptions, told: Path | None = None) -> Summary:
    """Indexes in this process; `told` gets a line for each picture at the moment it is reported."""

    def tell(done: Sequence[Any]) -> None:
        if told is not None:
            with told.open("a", encoding="utf-8") as file:
                file.write("".join(f"{one.path}\n" for one in done))

    with Indexing(options) as task:
        return task.go(retriever, tell)


def _whole(model: Path, options: IndexOptions, told: Path) -> None:
    indexed(load_retriever(model, threads=1), options, told)


def fork_index(model: Path, options: IndexOptions, told: Path) -> Any:
    """`indexed` in a process of its own, started."""
    process = forking.process(_whole, model, options, told)
    process.start()
    return process


def contents(address: Path | str) -> dict[str, Entry]:
    """All that an index has, by path; a picture that is in it twice is an error."""
    store = Store.open(str(address))
    every = list(store.entries())
    found = {one.path: one for one in every}
    assert len(found) == len(every), "in the index twice"
    return {
        path: store.whole([one.key], ["vectors", "features", "reading"])[one.key]
        for path, one in found.items()
    }


def max_sim(entries: Sequence[Entry], queries: np.ndarray) -> np.ndarray:
    """MaxSim by numpy alone: queries [V, E] -> the sum over them of the best cosine, for each entry."""
    sums = []
    for entry in entries:
        assert entry.vectors is not None
        rows = entry.vectors / np.linalg.norm(entry.vectors, axis=1, keepdims=True)
        sums.append((rows @ queries.T).max(axis=0).sum())
    return np.array(sums)
