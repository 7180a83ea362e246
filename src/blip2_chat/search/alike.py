"""For each picture of a run those of the same run that are most like it, by the embeddings that an index has of them.

No model is loaded. "Most like" is what `search --like` goes by, MaxSim of one picture's embeddings with another's, of
the pictures whose mean embeddings are nearest: comparing every picture with every other in full would take hours.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..engines.engine import Floats
from ..system.progress import Progress, silent
from .store import Store

# Pictures that are compared in full with each, and the rows of the table of means that are compared at once.
_CANDIDATES = 16
_ROWS = 256
# The embeddings of more pictures than this would take too much memory (16 kB each with the official models): then the
# nearest means are what is shown.
_MOST_IN_FULL = 10_000


def most_alike(
    store: Store, digests: Collection[str], count: int = 6, on_progress: Progress = silent
) -> dict[str, list[str]]:
    """The digests of the `count` other pictures that are most like each picture, best first, of `digests` alone. A
    picture that the index lacks is neither a key nor a result. Raises `RunError` for an index that cannot be read."""
    names, means, whole = _read(store, digests)
    found: dict[str, list[str]] = {}
    for first in range(0, len(names), _ROWS):
        on_progress("comparing pictures", first, len(names))
        likeness = means[first : first + _ROWS] @ means.T
        for row, near in enumerate(likeness):
            at = first + row
            near[at] = -np.inf
            candidates = _best(near, count if whole is None else max(count, _CANDIDATES))
            if whole is not None:
                candidates = candidates[_best(_max_sim(whole[at], whole[candidates]), count)]
            found[names[at]] = [names[one] for one in candidates]
    on_progress("comparing pictures", len(names), len(names))
    return found


def _max_sim(queries: Floats, others: Floats) -> Floats:
    """Embeddings [Q, E] of a picture, [C, Q, E] of others -> [C]: the sum over the first of the best similarity."""
    each, size = queries.shape
    products = queries.astype(np.float32) @ others.reshape(-1, size).astype(np.float32).T
    best: Floats = products.reshape(each, -1, each).max(axis=2).sum(axis=0)
    return best


def _read(store: Store, digests: Collection[str]) -> tuple[list[str], Floats, Floats | None]:
    """The digests that the index has, once each; their mean embeddings, of length 1, float32 [N, E]; and all their
    embeddings, rows of length 1, float16 [N, Q, E], or None if there are too many."""
    wanted = set(digests)
    names: list[str] = []
    means: list[Floats] = []
    whole: list[Floats] | None = []
    for found, vectors in store.embeddings():
        places = [at for at, digest in enumerate(found) if digest in wanted]
        for at in places:
            if found[at] not in wanted:
                continue  # the same pixels, a second time
            wanted.discard(found[at])
            one = _unit(vectors[at].astype(np.float32))
            names.append(found[at])
            means.append(_unit(one.mean(axis=0)))
            if whole is not None:
                whole.append(one.astype(np.float16))
        if whole is not None and len(whole) > _MOST_IN_FULL:
            whole = None
    size = store.about().maker.size
    table = np.stack(means) if means else np.empty((0, size), np.float32)
    return names, table, None if not whole else np.stack(whole)


def _unit(vectors: Floats) -> Floats:
    """Rows scaled to length 1."""
    scaled: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return scaled


def _best(scores: Floats, count: int) -> np.ndarray:
    """The places of the `count` largest numbers that are finite, the largest first."""
    count = min(count, len(scores))
    places = np.argpartition(-scores, count - 1)[:count] if count else np.empty(0, np.int64)
    ordered = places[np.argsort(-scores[places], kind="stable")]
    return ordered[np.isfinite(scores[ordered])]
