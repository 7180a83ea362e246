"""A retrieval model run layer by layer, as `reference.py` runs a chat model: for calibration and comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..engine import Floats
from ..retrieval import padded
from .graph.builder import Graph
from .graph.tensors import Array, Value
from .reference import Read, Sample
from .streamed import Watch, run_streamed


def encode(
    picture: Graph,
    read: Read,
    samples: Sequence[Sample],
    watch: Watch | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> list[dict[Value, Array]]:
    """The outputs of the picture encoder for each sample; a picture of several samples is read once."""
    first = {id(sample.pixels): sample.pixels for sample in samples}
    feeds: list[dict[Value, Array]] = [{"pixels": pixels} for pixels in first.values()]
    encoded = dict(zip(first, run_streamed(picture, read, feeds, watch, progress=progress), strict=True))
    return [encoded[id(sample.pixels)] for sample in samples]


def matched(
    graphs: Sequence[Graph],
    read: Read,
    queries: int,
    samples: Sequence[Sample],
    progress: Callable[[int], None],
) -> tuple[list[Floats], list[Floats]]:
    """(The embeddings [1, Q, E] of each sample's picture, the logits [1, 2] of whether it matches the text)."""
    picture, matching = graphs
    feeds: list[dict[Value, Array]] = []
    for sample, found in zip(samples, encode(picture, read, samples, progress=progress), strict=True):
        ids, mask = padded([sample.prompt], queries)
        count = np.array([queries])
        feeds.append({**found, "count": count, "ids": ids, "mask": mask})
        # The picture alone: its embeddings must not depend on the text.
        feeds.append({**found, "count": count, "ids": ids[:, :0], "mask": mask[:, :queries]})
    results = run_streamed(matching, read, feeds, progress=progress)
    both, alone = results[::2], results[1::2]
    vectors = [one["picture_embeddings"] for one in alone]
    return vectors, [one["match_logits"].mean(axis=1) for one in both]
