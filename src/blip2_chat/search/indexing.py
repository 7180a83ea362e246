"""Pictures -> an index: a run that is resumed by the same command, and notices what has changed since."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from ..batch.errors import RunError
from ..batch.inputs.sources import Source, check, open_sources
from ..batch.inputs.tables import Columns
from ..batch.items import Item, Part, count, positioned, stamped
from ..batch.journal import Journal
from ..batch.pipeline import Pipeline
from ..batch.result import Result
from ..batch.sizing import BatchSize
from ..batch.storage import is_remote, reason, scheme
from ..errors import Parameter
from ..images.naming import one_line
from ..retriever import Retriever
from .approximate import is_due, make, texts
from .embedder import Embedder, Indexed, maker_of
from .store import About, Approximate, Store, require_lancedb

_LOOKED_UP = 16
_FAILURES = 5
# Writes between two tidyings: every write adds a small file and a version.
_TIDY_EVERY = 200


@dataclass(frozen=True)
class IndexOptions:
    """What to index, and where.

    out: a folder to make, or a URL. sources: as a run has them, in addition to those that the index was made of.
    without: sources that are no longer to be in it.
    exclude: patterns of files and folders to skip; None: as the last time. columns: as a run's, of a new index.
    keep_features: also keep the encoder's output, so that pictures need not be encoded again to be matched with a
    text.
    fresh: make the index anew. retry_failed: try pictures again that could not be opened.
    revision, processor: as the model was asked for, to load it again for a search.
    """

    out: str
    sources: tuple[Source, ...] = ()
    without: tuple[str, ...] = ()
    columns: Columns = field(default_factory=Columns)
    exclude: tuple[str, ...] | None = None
    keep_features: bool = False
    limit: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    fresh: bool = False
    retry_failed: bool = False
    revision: str | None = None
    processor: str | None = None


@dataclass(frozen=True)
class Summary:
    """Counts of an index's pictures: all in it, done now (in `seconds`), of those changed since they were done
    before, vanished and so removed, failed, and the same as another."""

    rows: int
    done: int
    changed: int
    vanished: int
    failed: int
    duplicates: int
    seconds: float
    stopped: bool
    failures: tuple[tuple[str, str], ...] = ()
    passed_over: dict[str, int] = field(default_factory=dict)
    approximate: Approximate | None = None


class Indexing:
    """Made from its options, which are checked at once; then `with indexing: indexing.go(retriever)`.

    Raises `RunError` from everything.
    """

    def __init__(self, options: IndexOptions) -> None:
        require_lancedb()  # before a model is loaded
        self.options = replace(options, out=place(options.out))
        self.passed_over: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._pipeline: Pipeline[Indexed] | None = None
        self._store = Store.find(self.options.out)
        self.about = None if self._store is None or options.fresh else self._store.about()
        self.sources, self.exclude, self.columns = self._inputs()
        self._check()
        self._lock = _locked(self.options.out)
        self.journal = Journal(None)
        try:
            if self._store is not None and not options.fresh:
                self.journal.restore(_kept(self._store))
            self.before = len(self.journal)
            if options.retry_failed:
                self.journal.forget_failed()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Indexing:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()
        if self._lock is not None:
            self._lock.release()
            if self._store is None:  # nothing came of it
                with contextlib.suppress(OSError):
                    os.unlink(self._lock.lock_file)
                with contextlib.suppress(OSError):
                    os.rmdir(self.options.out)

    def _inputs(self) -> tuple[tuple[Source, ...], tuple[str, ...], Columns]:
        options, about = self.options, self.about
        given = [_address(source) for source in options.sources]
        if about is None:
            return tuple(dict.fromkeys(given)), options.exclude or (), options.columns
        gone = {_address(source) for source in options.without}
        if unknown := gone.difference(about.sources):
            raise RunError(
                f"{one_line(str(next(iter(unknown))))} is not a source of {one_line(options.out)}, which was made of "
                f"{one_line(', '.join(about.sources))}"
            )
        sources = tuple(one for one in dict.fromkeys([*about.sources, *given]) if one not in gone)
        columns = Columns(about.column, about.name_column)
        if options.columns not in (Columns(), columns):
            raise RunError(
                "an index has one column of pictures for all of its tables: give the same again, or ",
                Parameter("fresh", True),
            )
        return sources, about.exclude if options.exclude is None else options.exclude, columns

    def _check(self) -> None:
        if not self.sources:
            raise RunError("give a folder, a pattern, a list, a table or shards to read pictures from")
        given = {_address(source) for source in self.options.sources}
        for source in self.sources:
            try:
                check([source], self.columns, self.exclude)
            except RunError as error:
                if source in given or not isinstance(source, str):
                    raise
                raise RunError(
                    *error.message, "; ", Parameter("without", source), " takes it out of the index"
                ) from error
        if not is_remote(self.options.out):
            folder = Path(self.options.out).parent
            if not folder.is_dir():
                raise RunError(f"there is no folder {folder}; make it, or give another place")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise RunError(f"{folder} is not writable for you; give another place")

    def count(self) -> int:
        """The number of pictures in the sources, up to the limit."""
        return count(self._parts(Counter()), self.options.limit)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Makes `go` end after the current batch. Can be called from a signal handler."""
        self._stopping.set()
        if self._pipeline is not None:
            self._pipeline.stop()

    def go(
        self,
        retriever: Retriever,
        on_batch: Callable[[Sequence[Indexed]], None] | None = None,
    ) -> Summary:
        """Indexes what is new or has changed, and removes what has vanished. `on_batch` receives pictures once they
        are stored."""
        started = time.perf_counter()
        store = self._started(retriever)
        embedder = Embedder(retriever, keeps_features=store.about().keeps_features)
        size = BatchSize(embedder.bytes_per_picture(), self.options.batch_size)
        self._pipeline = Pipeline(
            embedder, self._new_items(), lambda digest: self._known(store, digest), size, self.options.workers
        )
        if self.stopping:
            self._pipeline.stop()
        done = self._keep(store, iter(self._pipeline), on_batch)
        vanished = 0 if self.stopping or self.options.limit is not None else store.remove(self._vanished())
        if done or vanished:
            store.tidy()
        approximate = store.about().approximate
        if not self.stopping and is_due(store, retriever.config.num_query_tokens, approximate):
            embedded = retriever.embed_texts(texts())
            approximate = make(store, retriever.config.num_query_tokens, embedded)
            store.change(approximate=approximate)
        counts = self.journal.counts()
        return Summary(
            counts.rows,
            done,
            self.journal.changed,
            vanished,
            counts.failed,
            counts.duplicates,
            time.perf_counter() - started,
            self.stopping,
            self.journal.failures(_FAILURES),
            dict(self.passed_over),
            approximate,
        )

    def _started(self, retriever: Retriever) -> Store:
        """The index, made if it is not there, with the sources of this run."""
        options = self.options
        maker = maker_of(retriever, revision=options.revision, processor=options.processor)
        sources = tuple(source for source in self.sources if isinstance(source, str))
        if self.about is None:
            columns = (options.columns.picture, options.columns.name)
            about = About(maker, sources, self.exclude, *columns, keeps_features=options.keep_features)
            self._store = Store.create(options.out, about)
            return self._store
        assert self._store is not None  # it has said what it is
        require_same(self.about, retriever, options.out)
        if options.keep_features and not self.about.keeps_features:
            raise RunError(
                f"{one_line(options.out)} was made without ",
                Parameter("keep_features", True),
                "; give ",
                Parameter("fresh", True),
                " to make it again with them",
            )
        self._store.change(sources=sources, exclude=self.exclude)
        return self._store

    def _keep(
        self,
        store: Store,
        batches: Iterator[list[tuple[str, Indexed]]],
        on_batch: Callable[[Sequence[Indexed]], None] | None,
    ) -> int:
        done = 0
        for number, batch in enumerate(batches, 1):
            # An item may occur twice in a batch: a table cannot have two rows with one key.
            every = {key: one.entry for key, one in batch}
            replacing = self.options.retry_failed or any(map(self.journal.has, every))
            store.put(list(every.values()), replacing=replacing)
            self.journal.commit((key, one.result()) for key, one in batch)
            done += len(every)
            if number % _TIDY_EVERY == 0:
                store.tidy()
            if on_batch is not None:
                on_batch([one for _, one in batch])
        return done

    def _known(self, store: Store, digest: str) -> Indexed | None:
        if self.journal.same_content(digest) is None:
            return None
        found = store.with_digest(digest)
        return None if found is None else Indexed(found)

    def _new_items(self) -> Iterator[Item]:
        items = positioned(self._parts(self.passed_over), self.options.limit)
        while block := list(itertools.islice(items, _LOOKED_UP)):
            yield from self.journal.list(map(stamped, block))

    def _parts(self, passed: Counter[str]) -> Iterator[Part]:
        return open_sources(
            self.sources,
            self.columns,
            but={os.path.abspath(self.options.out)},
            exclude=self.exclude,
            passed=passed,
        )

    def _vanished(self) -> Iterator[str]:
        """The keys that no source has any more. What is in a folder or archive that cannot be read now is kept."""
        failed = {path for path, _ in self.journal.failures(1 << 30)}
        for key in self.journal.unlisted():
            starts = (key[:at] for at, letter in enumerate(key) if letter in "/\\#")
            if not any(start in failed for start in starts):
                yield key


def require_same(about: About, retriever: Retriever, address: str) -> None:
    """Raises `RunError` if an index was made with another model: their embeddings differ."""
    maker = about.maker
    if maker.identity != retriever.identity:
        mine = f"{one_line(retriever.name)} at {retriever.plan.precision}"
        made = f"{one_line(maker.name)} at {maker.precision}"
        if mine == made:
            mine = f"{mine} with other weights or picture settings"
        raise RunError(
            f"{one_line(address)} was made with {made}, and this is {mine}, whose embeddings cannot be compared with "
            "its own: use the model that it was made with, or index the pictures again with ",
            Parameter("fresh", True),
        )


def _kept(store: Store) -> Iterator[tuple[str, str | None, Result]]:
    for one in store.entries():
        made = Result(one.path, error=one.error, width=one.width, height=one.height, digest=one.digest)
        yield one.key, one.stamp, made


def place(address: str) -> str:
    """The address of an index, whatever the working directory."""
    return address if is_remote(address) else os.path.abspath(os.path.expanduser(address))


def _address(source: Source) -> Source:
    """An absolute source: an index is searched, and brought up to date, from any working directory."""
    if not isinstance(source, str | os.PathLike):
        return source
    address = os.fspath(source)
    return address if scheme(address) else os.path.abspath(os.path.expanduser(address))


def _locked(out: str) -> FileLock | None:
    """One process at a time writes an index on this machine. The lock ends with its process."""
    if is_remote(out):
        return None
    lock = FileLock(os.path.join(out, ".lock"))
    try:
        os.makedirs(out, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"{one_line(out)} is in use: another process is writing it; wait for it, or give another ",
            Parameter("out"),
        ) from None
    except OSError as error:
        raise RunError(f"{one_line(out)} cannot be written ({reason(error)})") from error
    return lock
