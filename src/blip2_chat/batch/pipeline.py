"""Items -> batches of results, in order; decoding, encoding and what follows it run in parallel.

    reader thread     asks the sources for the next item, hands it to
    opener threads    read, decode, resize: as many as there are cores
    encoder thread    pixels -> encoded pictures, with the engine's picture graph
    the caller        encoded pictures -> captions and answers, or embeddings, with the engine's other graphs

Every queue is bounded, so memory does not grow with the collection.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..engines.engine import Floats
from ..images import PictureLimits, Preprocess
from .inputs.pictures import Opened, Opener
from .items import Item
from .sizing import BatchSize

# How often, in seconds, a waiting thread checks whether the iteration has ended.
_BEAT = 0.05
# Maximum number of pictures that wait to be encoded.
_AHEAD = 64 * 1024 * 1024


class Row(Protocol):
    """A picture's result, as far as the pipeline knows it."""

    @property
    def path(self) -> str: ...
    @property
    def digest(self) -> str | None: ...
    @property
    def duplicate_of(self) -> str | None: ...

    def saying(self: R, words: Any, **more: Any) -> R:
        """With what a worker's `write` gave, or with what another result says; `more` are further fields."""


R = TypeVar("R", bound=Row)
R_co = TypeVar("R_co", bound=Row, covariant=True)


class Worker(Protocol[R_co]):
    """The model at work. `encode` runs in another thread than `write`."""

    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def limits(self) -> PictureLimits: ...

    def begin(self, opened: Opened) -> R_co:
        """A picture's result before the model has seen it: what is known of the picture."""

    def encode(self, pixels: Floats) -> Floats:
        """Pixels [B,3,H,W] -> one array for each of the pictures, stacked."""

    def write(self, vectors: Floats, digests: Sequence[str]) -> Sequence[Any]:
        """What `encode` made of B pictures -> what the results of these pictures say."""


@dataclass(frozen=True)
class _Failure:
    error: BaseException


@dataclass(frozen=True)
class _Encoded(Generic[R]):
    """An opened picture's result, which says nothing yet; what `Worker.encode` made of it, unless it failed or its
    pixels are another's.

    original: what is stored for the same pixels. It may be replaced before this picture's turn, if its file changed.
    """

    key: str
    result: R
    vectors: Floats | None
    original: R | None
    seconds: float


_END = object()


class Pipeline(Generic[R]):
    """Iterate for batches of (key, result), in the order of the items. `stop()` ends after the current batch.

    `known` finds a stored result for the same pixels; the caller has to store each batch before it asks for the
    next one.
    """

    def __init__(
        self,
        worker: Worker[R],
        items: Iterable[Item],
        known: Callable[[str], R | None],
        batch_size: BatchSize,
        workers: int | None = None,
    ) -> None:
        self._worker = worker
        self._items = items
        self._known = known
        self._size = batch_size
        self._opener = Opener(worker.preprocess, worker.limits)
        self._workers = workers or max(2, min(8, os.cpu_count() or 2))
        self._closing = threading.Event()
        self._stopping = threading.Event()
        # Two batches ahead: one is encoded while the other is written about.
        height, width = worker.preprocess.size
        ahead = max(self._workers, min(2 * batch_size.most, _AHEAD // (12 * height * width)))
        self._opening: queue.Queue[object] = queue.Queue(ahead)
        self._encoded: queue.Queue[object] = queue.Queue(2 * batch_size.most)
        self._pending: set[str] = set()  # digests in progress, not yet stored by the caller

    def stop(self) -> None:
        """Ends the iteration after the current batch."""
        self._stopping.set()

    def __iter__(self) -> Generator[list[tuple[str, R]], None, None]:
        pool = ThreadPoolExecutor(self._workers, "blip2-chat-open")
        threads = [
            threading.Thread(target=self._guarded, args=(self._read, pool, self._opening), daemon=True),
            threading.Thread(target=self._guarded, args=(self._encode, pool, self._encoded), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            while batch := self._gather():
                for results in self._write(batch):
                    yield results
                    self._pending.difference_update(one.digest for _, one in results if one.digest)
                    if self._stopping.is_set():
                        return
        finally:
            self._closing.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for thread in threads:
                thread.join()

    # Threads

    def _guarded(
        self, work: Callable[[ThreadPoolExecutor], None], pool: ThreadPoolExecutor, out: queue.Queue[object]
    ) -> None:
        try:
            work(pool)
            self._put(out, _END)
        except BaseException as error:
            self._put(out, _Failure(error))

    def _read(self, pool: ThreadPoolExecutor) -> None:
        for item in self._items:
            if self._closing.is_set() or self._stopping.is_set():
                return
            self._put(self._opening, pool.submit(self._opener, item))

    def _encode(self, pool: ThreadPoolExecutor) -> None:
        while (future := self._get(self._opening)) is not _END:
            opened = self._waited(future)
            if opened is None:
                return
            started = time.perf_counter()
            vectors = original = None
            picture = opened.picture
            if picture is not None and picture.digest not in self._pending:
                original = self._known(picture.digest)
                if original is None:
                    self._pending.add(picture.digest)
                    vectors = self._worker.encode(picture.pixels)[0]
            result = self._worker.begin(opened)
            seconds = time.perf_counter() - started
            self._put(self._encoded, _Encoded(opened.item.key, result, vectors, original, seconds))

    def _waited(self, future: object) -> Opened | None:
        """A future's value; None if the iteration has ended."""
        assert isinstance(future, Future)
        while not self._closing.is_set():
            if wait([future], _BEAT).done:
                opened: Opened = future.result()
                return opened
        return None

    def _put(self, out: queue.Queue[object], thing: object) -> None:
        while not self._closing.is_set():
            try:
                return out.put(thing, timeout=_BEAT)
            except queue.Full:
                continue

    def _get(self, source: queue.Queue[object]) -> object:
        while not self._closing.is_set():
            try:
                thing = source.get(timeout=_BEAT)
            except queue.Empty:
                continue
            if isinstance(thing, _Failure):
                raise thing.error
            return thing
        return _END

    # The caller's side

    def _gather(self) -> list[_Encoded[R]]:
        """The next batch: up to `size` new pictures, and the duplicates and failures between them."""
        batch: list[_Encoded[R]] = []
        new = 0
        while new < self._size.size and len(batch) < 4 * self._size.most and not self._stopping.is_set():
            thing = self._get(self._encoded)
            if thing is _END:
                self._put(self._encoded, _END)  # for the next call
                break
            assert isinstance(thing, _Encoded)
            batch.append(thing)
            new += thing.vectors is not None
        return batch

    def _write(self, batch: Sequence[_Encoded[R]]) -> Iterator[list[tuple[str, R]]]:
        started = time.perf_counter()
        new = [one for one in batch if one.vectors is not None]
        try:
            written = self._about(new)
        except (MemoryError, RuntimeError) as error:
            if len(new) < 2 or not _is_memory(error):
                raise
            self._size.too_large(len(new))
            middle = len(batch) // 2
            yield from self._write(batch[:middle])
            yield from self._write(batch[middle:])
            return
        seconds = time.perf_counter() - started
        if new:
            self._size.measured(len(new), seconds)
        by_digest: dict[str, R] = {}
        results = []
        for one in batch:
            digest, result = one.result.digest, one.result
            if one.vectors is not None and digest is not None:
                mine = written[digest]
                result = result.saying(mine, seconds=round(one.seconds + seconds / len(new), 4))
                by_digest[digest] = result
            elif digest is not None:
                original = one.original or by_digest.get(digest) or self._known(digest)
                assert original is not None  # it is earlier in this batch, or stored
                result = result.saying(original, duplicate_of=original.duplicate_of or original.path)
            results.append((one.key, result))
        yield results

    def _about(self, new: Sequence[_Encoded[R]]) -> dict[str, Any]:
        if not new:
            return {}
        digests = [one.result.digest or "" for one in new]
        vectors = np.stack([one.vectors for one in new if one.vectors is not None])
        return dict(zip(digests, self._worker.write(vectors, digests), strict=True))


def _is_memory(error: BaseException) -> bool:
    """Whether an exception of Python, ONNX Runtime or torch means out of memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "memory" in text or "bad alloc" in text or "bad_alloc" in text
