"""`caption_all`: a run as a lazy iterator of results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeGuard

from typing_extensions import Unpack

from ..checkpoint.embedded import EMBEDDED
from ..generation.settings import Settings
from ..images import PictureSource, is_one_picture
from ..loading import load
from ..model import Model
from .captioner import Captioner, Tasks
from .errors import RunError
from .inputs.sources import InMemory, Source, check, open_sources
from .inputs.tables import Columns
from .items import Part, positioned
from .journal import Journal
from .pipeline import Pipeline
from .result import Result
from .sizing import BatchSize, threads


def caption_all(
    pictures: PictureSource | Iterable[PictureSource | Part],
    *,
    model: Model | str | Path = EMBEDDED,
    captions: int = 1,
    ask: Iterable[str] = (),
    choices: Iterable[str] = (),
    start: str | None = None,
    column: str | None = None,
    name_column: str | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    **settings: Unpack[Settings],
) -> Iterator[Result]:
    """Yields captions, and answers to questions, for all pictures: results in order, each when its batch is
    done.

    `pictures` is what `blip2-chat run` takes (a folder, a pattern, a list, a CSV, JSONL or Parquet table, WebDataset
    shards, a zip file), whatever `open_picture` takes as one picture (bytes, an open file, a PIL image, an array
    [H, W, 3], `{"bytes": ...}`), or an iterable of such; an array [N, H, W, 3] is N pictures. They are read
    lazily, as results are consumed. A picture that is missing or cannot be opened has a result with an `error`.
    `model` is a loaded model or a name to load; `start` holds the first words of each caption, which the model
    continues; `choices` are answers of which every question gets the most probable one, without any being generated;
    `settings` are those of `Decoding`. Pictures with identical pixels are captioned once.

    Raises `RunError`, and what loading raises, before the first result.
    """
    tasks = Tasks(captions, tuple(ask), settings, start, tuple(choices))
    columns = Columns(column, name_column)
    if isinstance(pictures, str | os.PathLike) and os.path.exists(pictures):
        check([pictures], columns)
    sources = _as_sources([pictures] if is_one_picture(pictures) or _is_part(pictures) else pictures)
    mine = None if isinstance(model, Model) else load(model, threads=threads(str(model)))
    running = mine or model
    assert isinstance(running, Model)
    return _results(running, mine is not None, tasks, sources, columns, limit, batch_size, workers)


def _results(
    model: Model,
    is_mine: bool,
    tasks: Tasks,
    sources: Iterable[Source],
    columns: Columns,
    limit: int | None,
    batch_size: int | None,
    workers: int | None,
) -> Iterator[Result]:
    try:
        captioner = Captioner(model, tasks)
        size = BatchSize(captioner.bytes_per_picture(), batch_size)
        items = positioned(open_sources(sources, columns, lenient=True), limit)
        # A temporary journal finds duplicates without keeping all results in memory.
        with Journal(None) as journal:
            pipeline = Pipeline(captioner, items, journal.same_content, size, workers)
            with closing(iter(pipeline)) as batches:
                number = 0
                for batch in batches:
                    journal.commit((f"{number + place}", result) for place, (_, result) in enumerate(batch))
                    number += len(batch)
                    yield from (result for _, result in batch)
    finally:
        if is_mine:
            model.close()


def _as_sources(pictures: Any) -> Iterator[Source]:
    """Raises `RunError` immediately if there are no pictures."""
    try:
        every = iter(pictures)
    except TypeError as error:
        raise RunError(
            f"a value of type {type(pictures).__name__} is neither a picture nor a collection of them; give a path, "
            "bytes, a PIL image, an array, or an iterable of such"
        ) from error
    return (
        picture
        if isinstance(picture, str | os.PathLike) or _is_part(picture)
        else InMemory((picture,), number)
        for number, picture in enumerate(every)
    )


def _is_part(value: object) -> TypeGuard[Part]:
    return not isinstance(value, Mapping) and callable(getattr(value, "items", None))
