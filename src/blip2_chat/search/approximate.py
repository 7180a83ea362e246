"""The approximate search of a large index, and its recall: the share of the exact results that it finds.

Embeddings lie in parts, and a query looks through those nearest to it. How many is measured: enough for the recall
that is wanted, with texts as people write them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..engines.engine import Floats
from .store import Approximate, Store

# From so many embeddings on, an exact search is slow: 4,096 pictures of 32.
FIRST = 1 << 17
# Results of which the recall is measured: what ITM reads again.
OF = 128
_WANTED = 0.99
_TEXTS = (
    "a dog on a beach",
    "two people riding bicycles",
    "a plate of food on a table",
    "a red car in a street",
    "a child with a ball",
    "a house in the mountains",
    "a cat asleep on a sofa",
    "a boat on the water at sunset",
    "a crowd at a concert",
    "flowers in a garden",
    "an aeroplane in the sky",
    "a woman in a blue dress",
    "a train at a station",
    "horses in a field",
    "a building at night",
    "a drawing of a tree",
)


def texts() -> Sequence[str]:
    """What the recall is measured with."""
    return _TEXTS


def is_due(store: Store, queries: int, present: Approximate | None) -> bool:
    """Whether an index has grown so large, or twice as large since, that its approximate search is to be made."""
    pictures = len(store)
    if present is not None:
        return pictures >= 2 * present.pictures
    return pictures * queries >= FIRST


def make(store: Store, queries: int, embedded: Floats) -> Approximate:
    """Makes the approximate search, with as many probes as the wanted recall takes for texts [T, E]."""
    pictures = len(store)
    partitions = max(1, round(math.sqrt(pictures * queries) / 2))
    store.partition(partitions)
    exact = [{one.key for one, _ in store.nearest(text[None], OF)} for text in embedded]
    probes = max(1, partitions // 32)
    while True:
        found = Approximate(partitions, probes, 0.0, OF, pictures)
        recall = _recall(store, embedded, exact, found)
        if recall >= _WANTED or probes >= partitions:
            return Approximate(partitions, probes, round(recall, 4), OF, pictures)
        probes = min(2 * probes, partitions)


def _recall(store: Store, embedded: Floats, exact: Sequence[set[str]], how: Approximate) -> float:
    shares = []
    for text, wanted in zip(embedded, exact, strict=True):
        found = {one.key for one, _ in store.nearest(text[None], OF, how)}
        shares.append(len(found & wanted) / max(len(wanted), 1))
    return sum(shares) / max(len(shares), 1)
