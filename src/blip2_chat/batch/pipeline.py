"""Items -> batches of results, in order; decoding, encoding and generation run in parallel.

    reader thread     asks the sources for the next item, hands it to
    opener threads    read, decode, resize: as many as there are cores
    encoder thread    pixels -> encoded pictures, with the engine's picture graph
    the caller        encoded pictures -> captions and answers, with the engine's other graphs

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

import numpy as np

from ..engines.engine import Floats
from .captioner import Captioner
from .inputs.pictures import Opened, Opener
from .items import Item
from .result import Result, Written
from .sizing import BatchSize

# How often, in seconds, a waiting thread checks whether the iteration has ended.
_BEAT = 0.05
# Maximum number of pictures that wait to be encoded.
_AHEAD = 64 * 1024 * 1024


@dataclass(frozen=True)
class _Failure:
    error: BaseException


@dataclass(frozen=True)
class _Encoded:
    """An opened picture's result, still without words; what `Captioner.encode` made of it unless it failed or its
    pixels are another's."""

    key: str
    result: Result
    vectors: Floats | None
    seconds: float


_END = object()


class Pipeline:
    """Iterate for batches of (key, result), in the order of the items. `stop()` ends after the current batch.

    `known` finds a stored result for the same pixels; the caller has to store each batch before it asks for the
    next one.
    """

    def __init__(
        self,
        captioner: Captioner,
        items: Iterable[Item],
        known: Callable[[str], Result | None],
        batch_size: BatchSize,
        workers: int | None = None,
    ) -> None:
        self._captioner = captioner
        self._items = items
        self._known = known
        self._size = batch_size
        self._opener = Opener(captioner.model.preprocess, captioner.model.limits)
        self._workers = workers or max(2, min(8, os.cpu_count() or 2))
        self._closing = threading.Event()
        self._stopping = threading.Event()
        # Two batches ahead: one is encoded while text is generated for the other.
        height, width = captioner.model.preprocess.size
        ahead = max(self._workers, min(2 * batch_size.most, _AHEAD // (12 * height * width)))
        self._opening: queue.Queue[object] = queue.Queue(ahead)
        self._encoded: queue.Queue[object] = queue.Queue(2 * batch_size.most)
        self._pending: set[str] = set()  # digests in progress, not yet stored by the caller

    def stop(self) -> None:
        """Ends the iteration after the current batch."""
        self._stopping.set()

    def __iter__(self) -> Generator[list[tuple[str, Result]], None, None]:
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
            vectors = None
            picture = opened.picture
            if picture is not None:
                is_new = picture.digest not in self._pending and self._known(picture.digest) is None
                if is_new:
                    self._pending.add(picture.digest)
                    vectors = self._captioner.encode(picture.pixels)[0]
            result = self._captioner.result(**opened.about())
            seconds = time.perf_counter() - started
            self._put(self._encoded, _Encoded(opened.item.key, result, vectors, seconds))

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

    def _gather(self) -> list[_Encoded]:
        """The next batch: up to `size` new pictures, and the duplicates and failures between them."""
        batch: list[_Encoded] = []
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

    def _write(self, batch: Sequence[_Encoded]) -> Iterator[list[tuple[str, Result]]]:
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
        by_digest: dict[str, Result] = {}
        results = []
        for one in batch:
            digest, result = one.result.digest, one.result
            if one.vectors is not None and digest is not None:
                mine = written[digest]
                result = result.saying(mine, seconds=round(one.seconds + seconds / len(new), 4))
                by_digest[digest] = result
            elif digest is not None:
                original = by_digest.get(digest) or self._known(digest)
                assert original is not None  # the original is earlier in this batch, or stored
                result = result.saying(original, duplicate_of=original.duplicate_of or original.path)
            results.append((one.key, result))
        yield results

    def _about(self, new: Sequence[_Encoded]) -> dict[str, Written]:
        if not new:
            return {}
        digests = [one.result.digest or "" for one in new]
        vectors = np.stack([one.vectors for one in new if one.vectors is not None])
        return dict(zip(digests, self._captioner.write(vectors, digests), strict=True))


def _is_memory(error: BaseException) -> bool:
    """Whether an exception of Python, ONNX Runtime or torch means out of memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "memory" in text or "bad alloc" in text or "bad_alloc" in text
