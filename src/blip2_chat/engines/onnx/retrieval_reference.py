"""A retrieval model run layer by layer, as `reference.py` runs a chat model: for calibration and comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..engine import Floats
from ..retrieval import padded
from .graph.builder import Array, Graph, Value
from .reference import Read, Sample, Watch
from .streamed import run_streamed


def picture_means(
    picture: Graph, read: Read, samples: Sequence[Sample], progress: Callable[[int], None]
) -> dict[str, Floats]:
    """The mean [K] of the inputs of every linear layer of the picture encoder, by the names of the weights."""
    watch = Watch(picture)
    run_streamed(picture, read, _pixels(samples), watch.taps, watch, progress=progress)
    return watch.means()


def matched(
    graphs: Sequence[Graph],
    read: Read,
    queries: int,
    samples: Sequence[Sample],
    progress: Callable[[int], None],
) -> tuple[list[Floats], list[Floats]]:
    """(The embeddings [1, Q, E] of each sample's picture, the logits [1, 2] of whether it matches the text)."""
    picture, matching = graphs
    # A picture of several samples is read once.
    first = {id(sample.pixels): sample for sample in samples}
    features = run_streamed(picture, read, _pixels(list(first.values())), progress=progress)
    encoded = dict(zip(first, features, strict=True))
    feeds: list[dict[Value, Array]] = []
    for sample in samples:
        found = encoded[id(sample.pixels)]
        ids, mask = padded([sample.prompt], queries)
        feeds.append({**found, "count": np.array([queries]), "ids": ids, "mask": mask})
        # The picture alone: its embeddings are not to see the text.
        nothing = ids[:, :0]
        feeds.append({**found, "count": np.array([queries]), "ids": nothing, "mask": mask[:, :queries]})
    results = run_streamed(matching, read, feeds, progress=progress)
    pairs = list(zip(results[::2], results[1::2], strict=True))
    vectors = [alone["picture_embeddings"] for _, alone in pairs]
    return vectors, [both["match_logits"].mean(axis=1) for both, _ in pairs]


def _pixels(samples: Sequence[Sample]) -> list[dict[Value, Array]]:
    return [{"pixels": sample.pixels} for sample in samples]
