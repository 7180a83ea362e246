"""The estimated time of a run, measured on its first pictures."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

from ..model import Model
from .captioner import Captioner
from .inputs.sources import check
from .items import count, positioned
from .journal import Journal
from .options import RunOptions, progress_path
from .pipeline import Pipeline
from .run import parts
from .sizing import BatchSize

# Enough for the batch size to grow, in a time that people are willing to wait.
_PICTURES = 48
_SECONDS = 60.0


@dataclass(frozen=True)
class Estimate:
    """Numbers of pictures: all, done before, measured now (in `seconds`), failed of those; seconds for the
    rest."""

    pictures: int
    done: int
    measured: int
    failed: int
    seconds: float
    batch_size: int
    remaining_seconds: float


def estimate(options: RunOptions, model: Model) -> Estimate:
    """Runs the first pictures through the pipeline and discards the results."""
    check(options.sources, options.columns)
    captioner = Captioner(model, options.tasks)
    size = BatchSize(captioner.bytes_per_picture(), options.batch_size)
    pictures = count(parts(options), options.limit)
    path = progress_path(options)
    done = 0
    if path.is_file() and not options.fresh:
        with Journal(path) as journal:
            done = min(len(journal), pictures)
    items = positioned(parts(options), min(pictures, _PICTURES))
    measured = failed = 0
    started = time.perf_counter()
    with Journal(None) as journal:
        pipeline = Pipeline(captioner, items, journal.same_content, size, options.workers)
        with closing(iter(pipeline)) as batches:
            for batch in batches:
                journal.commit(batch)
                measured += len(batch)
                failed += sum(result.error is not None for _, result in batch)
                if time.perf_counter() - started > _SECONDS:
                    break
    seconds = time.perf_counter() - started
    left = (pictures - done) * seconds / max(measured, 1)
    return Estimate(pictures, done, measured, failed, seconds, size.size, left)
