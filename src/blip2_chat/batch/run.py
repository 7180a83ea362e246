"""A whole run: what is to be done, what is done already, and the output."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._version import __version__
from ..errors import MetadataError, Parameter
from ..images.naming import one_line
from ..model import Model
from .captioner import Captioner
from .errors import RunError
from .inputs.sources import open_sources
from .items import Item, Part, count, positioned, stamped
from .journal import Journal
from .options import RunOptions, absolute, check_options, progress_path
from .outputs.metadata import MetadataWriter
from .outputs.outcome import Pictured, in_folder, is_metadata
from .outputs.sidecar import SidecarWriter
from .outputs.writers import Shape, write
from .pipeline import Pipeline
from .result import Result
from .sizing import BatchSize
from .storage import is_remote, parent

# Items that are looked up together; items of shards are held in memory with their bytes.
_LOOKED_UP = 16
# Number of failed pictures named in a summary.
_FAILURES = 5


@dataclass(frozen=True)
class Summary:
    """The summary of a run. Counts are of this run's pictures that have a result.

    rows: all of them; done: those of them that this run did, in `seconds`; changed: of those, done before when the
    file was another; failed, duplicates: of all rows.
    stopped: the run was asked to stop before the end. sidecars: files "written", files of others "kept" (their
    pictures have no rows, unless there is an output file as well), pictures "nowhere" on this machine.
    failures: the first failed pictures, each with its error.
    passed_over: how many files were not pictures, by kind, as `passed_over.told` formats it.
    without_picture: rows of a .tar whose picture could not be read again to be stored in it.
    metadata: pictures whose metadata was "written", was there already ("unchanged"), has a text of another program
    that was "kept", could not be written ("failed"), or that are not files on this machine ("nowhere").
    unwritten: the first pictures whose metadata could not be written, each with its error.
    """

    rows: int
    done: int
    changed: int
    failed: int
    duplicates: int
    seconds: float
    stopped: bool
    sidecars: dict[str, int]
    failures: tuple[tuple[str, str], ...] = ()
    passed_over: dict[str, int] = field(default_factory=dict)
    without_picture: int = 0
    metadata: dict[str, int] = field(default_factory=dict)
    unwritten: tuple[tuple[str, MetadataError], ...] = ()


class Run:
    """Made from its options, which are checked at once; then `with run: run.go(model)`.

    Raises `RunError` from everything.
    """

    def __init__(self, options: RunOptions, model_settings: dict[str, Any]) -> None:
        """`model_settings`: how the model was asked for, part of what must not change between two runs."""
        self.options = options
        check_options(options)
        self.progress = progress_path(options)
        self.journal = Journal(self.progress)
        self._stopping = threading.Event()
        self._pipeline: Pipeline[Result] | None = None
        self.passed_over: Counter[str] = Counter()
        self._sidecars = SidecarWriter(options.sidecar, self.journal) if options.sidecar else None
        self._metadata = (
            MetadataWriter(options.metadata, self.journal, options.limits) if options.metadata else None
        )
        # Pictures without a caption, because a text of somebody else is in the place of each.
        self.left_alone: Counter[str] = Counter()
        self.settings = _settings(options, model_settings)
        try:
            self._take_up()
        except BaseException:
            self.journal.close()
            raise
        self.before = len(self.journal)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()

    def _take_up(self) -> None:
        """Compares the settings with those of the run that is resumed."""
        if self.options.fresh:
            self.journal.forget_all()
        earlier = self.journal.noted("settings")
        if earlier and len(self.journal):
            changed = [
                f"{name} was {_shown(earlier.get(name))} and is now {_shown(value)}"
                for name, value in self.settings.items()
                if earlier.get(name) != value
            ]
            if changed:
                raise RunError(
                    f"{self.progress} was begun with other settings: {'; '.join(changed)}. Give those again to "
                    "resume, ",
                    Parameter("fresh", True),
                    " to start over, or another ",
                    Parameter("out"),
                )
        # Beside the settings, since higher limits let a run that was begun open more of its pictures.
        self.journal.note({"settings": self.settings, "max_pixels": self.options.limits.max_pixels})
        if self.options.retry_failed:
            self.journal.forget_failed()

    def chosen(self) -> dict[str, str]:
        """The engine and precision that the earlier run chose, for `load`, so that "auto" does not change in
        the middle of a run because less memory is free."""
        kept = self.journal.noted("chosen") if len(self.journal) else {}
        return {name: value for name, value in kept.items() if isinstance(value, str)}

    def count(self) -> int:
        """The number of pictures in the sources, up to the limit."""
        return count(parts(self.options), self.options.limit)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Makes `go` end after the current batch. Can be called from a signal handler."""
        self._stopping.set()
        if self._pipeline is not None:
            self._pipeline.stop()

    def go(self, model: Model, on_batch: Callable[[Sequence[Result]], None] | None = None) -> Summary:
        """Captions what is not done yet, and writes the output. `on_batch` receives results once they are
        stored."""
        self.journal.note({"chosen": {"engine": model.engine.name, "precision": model.engine.precision}})
        captioner = Captioner(model, self.options.tasks)
        size = BatchSize(captioner.bytes_per_picture(), self.options.batch_size)
        self._pipeline = Pipeline(
            captioner, self._new_items(), self.journal.same_content, size, self.options.workers
        )
        if self.stopping:
            self._pipeline.stop()
        return self.keep(iter(self._pipeline), on_batch)

    def keep(
        self,
        batches: Iterator[list[tuple[str, Result]]],
        on_batch: Callable[[Sequence[Result]], None] | None = None,
    ) -> Summary:
        """Stores batches as they arrive, then writes the output."""
        started = time.perf_counter()
        done = 0
        sidecars = self._sidecars
        for batch in batches:
            self.journal.commit(batch)
            done += len(batch)
            if sidecars is not None:
                sidecars.write(self.journal.located(batch))
            if self._metadata is not None:
                self._metadata.write(self.journal.located(batch))
            if on_batch is not None:
                on_batch([result for _, result in batch])
        seconds = time.perf_counter() - started
        without_picture = self.write()
        metadata = self._metadata
        for writer, name in ((sidecars, "sidecar"), (metadata, "metadata")):
            if writer is not None and self.left_alone[name]:
                writer.told["kept"] += self.left_alone[name]
        counts = self.journal.counts()
        told = dict(sidecars.told) if sidecars else {}
        stopped = self.stopping
        changed = self.journal.changed
        return Summary(
            counts.rows,
            done,
            changed,
            counts.failed,
            counts.duplicates,
            seconds,
            stopped,
            told,
            self.journal.failures(_FAILURES),
            passed_over=dict(self.passed_over),
            without_picture=without_picture,
            metadata=dict(metadata.told) if metadata else {},
            unwritten=tuple(metadata.failures) if metadata else (),
        )

    def write(self) -> int:
        """Writes the output from the stored results, also those of an interrupted run -> the number of pictures
        that should be stored in it but could not be read again."""
        for writer in (self._sidecars, self._metadata):
            if writer is not None:
                writer.begin_again()
                rows = self.journal.rows()
                while block := list(itertools.islice(rows, 500)):
                    writer.write((row.key, row.file, row.result) for row in block)
        out = self.options.out
        if out is None:
            return 0
        tasks = self.options.tasks
        limits = {"max_pixels": self.options.limits.max_pixels}
        about = {"version": __version__, **self.settings, **self.chosen(), **limits}
        shape = Shape(tasks.captions, tasks.questions, about, has_file_names=is_metadata(out))
        if is_metadata(out):
            write(out, in_folder(self.journal, parent(out)), shape)
        elif self.options.with_pictures:
            items = positioned(parts(self.options), self.options.limit)
            pictured = Pictured(self.journal, items, self.options.limits)
            write(out, pictured, shape)
            return pictured.missing
        else:
            write(out, (row.result for row in self.journal.rows()), shape)
        return 0

    def _new_items(self) -> Iterator[Item]:
        """The pictures without a result; all pictures are added to this run's order."""
        items = positioned(parts(self.options, passed=self.passed_over), self.options.limit)
        while block := list(itertools.islice(items, _LOOKED_UP)):
            yield from self.journal.list(map(stamped, self._wanted(block)))

    def _wanted(self, items: list[Item]) -> list[Item]:
        """Leaves out pictures for which nothing would be written, if all outputs are files next to the pictures, or
        the pictures themselves."""
        writers = {"sidecar": self._sidecars, "metadata": self._metadata}
        given = {name: writer for name, writer in writers.items() if writer is not None}
        if not given or self.options.out is not None:
            return items
        wanted = []
        for item in items:
            if all(writer.is_left_alone(item) for writer in given.values()):
                self.left_alone.update(given.keys())
            else:
                wanted.append(item)
        return wanted


def parts(options: RunOptions, chunk: int = 256, passed: Counter[str] | None = None) -> Iterator[Part]:
    """The sources of a run without its own outputs, which a pattern such as `photos/*` may match. `passed`
    counts the skipped files."""
    own = set()
    if options.out is not None and not is_remote(options.out):
        own.add(os.path.abspath(options.out))
    progress = str(progress_path(options))
    own |= {progress, f"{progress}-journal"}
    return open_sources(
        options.sources, options.columns, chunk=chunk, but=own, exclude=options.exclude, passed=passed
    )


def _settings(options: RunOptions, model_settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that influence results. The names are shown in messages."""
    tasks = options.tasks
    return {
        "sources": [absolute(source) for source in options.sources],
        "columns": [options.columns.picture, options.columns.name],
        **model_settings,
        "captions": tasks.captions,
        "questions": list(tasks.questions),
        # Only where they are given: runs that began before there were any go on.
        **({"choices": list(tasks.choices)} if tasks.choices else {}),
        "start": None if tasks.start is None else tasks.start.strip(),
        "writing": {name: _as_json(value) for name, value in sorted(tasks.settings.items())},
    }


def _as_json(value: Any) -> Any:
    """A setting as it is read back from the journal, which has no tuples."""
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return one_line(", ".join(map(_shown, value))) or "nothing"
    if isinstance(value, dict):
        return one_line(", ".join(f"{name}={_shown(one)}" for name, one in value.items())) or "the defaults"
    return "nothing" if value is None else one_line(str(value))
