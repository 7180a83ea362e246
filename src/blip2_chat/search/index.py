"""`Index`: the pictures of an index that fit a text best, or are most like another picture."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import GenerationError, PictureError
from ..images import Picture, PictureLimits, open_picture
from ..images.naming import one_line
from ..retriever import AnyPicture, Encoded, Retriever
from ..retriever_loading import load_retriever
from ..system.progress import Progress
from .indexing import place, require_same
from .store import Entry, Store

# Candidates that ITM reads again, as in the paper (section 4.5).
RERANKED = 128
# Pictures that are matched between two reports.
_AT_ONCE = 8

OnRerank = Callable[[int, int, float], None]
"""Called with how many candidates are read again, of how many, and the seconds that the rest will take."""


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    path: as a run shows it: a file, a URL, `shard.tar/member` or `table.parquet#row`. file: its absolute path, if it
    is a file. similarity: ITC, in [-1, 1]; of `like`, the mean over the other picture's queries.
    probability: ITM, that the text describes the picture; None if it was not asked, or the picture has changed or
    vanished since it was indexed, as `changed` says.
    """

    key: str
    path: str
    file: str | None
    digest: str
    width: int
    height: int
    similarity: float
    probability: float | None = None
    changed: str | None = None

    @property
    def score(self) -> float:
        """What the results are ordered by."""
        return self.similarity if self.probability is None else self.probability


class Index:
    """An index and the model that made it. Not for use by several threads at once."""

    def __init__(self, store: Store, retriever: Retriever, *, is_mine: bool) -> None:
        """Raises `RunError` if the index was made with another model."""
        self.store = store
        self.retriever = retriever
        self._is_mine = is_mine
        self.about = store.about()
        require_same(self.about, retriever, store.address)

    @classmethod
    def open(
        cls,
        address: str | Path,
        model: Retriever | str | Path | None = None,
        *,
        on_progress: Progress | None = None,
        **loading: Any,
    ) -> Index:
        """Opens an index that `blip2-chat index` made: a folder or a URL (s3://...).

        model: what made it, if it is not to be loaded by the name that the index has for it: a loaded retriever, or
        another name or folder of the same model. `loading`: `load_retriever`'s other parameters.
        Raises `RunError` if there is no index, or it was made with another model, and what loading raises.
        """
        store = Store.open(place(str(address)))
        if isinstance(model, Retriever):
            return cls(store, model, is_mine=False)
        maker = store.about().maker
        wanted: dict[str, Any] = {
            "precision": maker.precision,
            "engine": maker.engine,
            "revision": maker.revision,
            "processor": maker.processor,
        }
        wanted.update({name: value for name, value in loading.items() if value not in (None, "auto")})
        retriever = load_retriever(model or maker.name, on_progress=on_progress, **wanted)
        try:
            return cls(store, retriever, is_mine=True)
        except BaseException:
            retriever.close()
            raise

    def __len__(self) -> int:
        """The number of pictures that can be found."""
        return len(self.store)

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the model's memory, if it was loaded here."""
        if self._is_mine:
            self.retriever.close()

    def search(
        self,
        text: str | None = None,
        *,
        like: AnyPicture | Hit | None = None,
        top: int = 10,
        rerank: int = RERANKED,
        within: float | None = None,
        exact: bool = False,
        on_rerank: OnRerank | None = None,
    ) -> list[Hit]:
        """The `top` pictures that fit `text` best, or are most like the picture `like`; best first.

        ITC finds `rerank` candidates, and ITM reads these again together with the text, which is more exact and takes
        as long as encoding each of them (0: not at all). A picture that has vanished or changed since it was indexed
        is not read again and comes after those that are. `within`: seconds after which no further candidates are read
        again. `exact`: no approximate search, however large the index.

        Raises `GenerationError` for a text that cannot be used, `PictureError` for a picture that cannot be opened.
        """
        if (text is None) == (like is None):
            raise GenerationError("give a text to search for, or a picture that the results are to be like")
        if top < 1 or rerank < 0:
            raise GenerationError("top is at least 1, and rerank at least 0")
        self.store.refresh()
        approximate = None if exact else self.store.about().approximate
        if text is None:
            assert like is not None
            queries = self._embeddings(like)
            found = self.store.nearest(queries, top, approximate)
            return [_hit(entry, similarity / len(queries)) for entry, similarity in found]
        queries = self.retriever.embed_text(text)[None]
        found = self.store.nearest(queries, max(top, rerank), approximate)
        hits = [_hit(entry, similarity) for entry, similarity in found]
        first = self._matched(hits[:rerank], text, within, on_rerank) if rerank else []
        # Stable: candidates that were not read again stay in ITC's order, behind those that were.
        first.sort(key=lambda hit: (hit.probability is None, -(hit.probability or 0.0), -hit.similarity))
        return [*first, *hits[len(first) :]][:top]

    def picture(self, hit: Hit, limits: PictureLimits | None = None) -> Picture:
        """The picture of a hit. One that is no file is as large as the model reads it.

        Raises `PictureError` if it has vanished, or is not the picture that was indexed.
        """
        entry = self.store.whole([hit.key], ["reading"]).get(hit.key)
        if entry is None:
            raise PictureError(f"{hit.path} is no longer in the index", name=hit.path, fault="missing")
        return _picture(entry, limits or self.retriever.limits)

    def with_digest(self, digest: str) -> Hit:
        """An indexed picture by `Hit.digest`, as if found with itself. Raises `PictureError` if there is none."""
        self.store.refresh()
        entry = self.store.with_digest(digest)
        if entry is None:
            raise PictureError("there is no such picture in the index", fault="missing")
        return _hit(entry, 1.0)

    def _embeddings(self, like: AnyPicture | Hit) -> Any:
        """[Q, E]"""
        if not isinstance(like, Hit):
            return self.retriever.embed_picture(like)
        entry = self.store.whole([like.key], ["vectors"]).get(like.key)
        if entry is None or entry.vectors is None:
            raise PictureError(f"{like.path} is no longer in the index", name=like.path, fault="missing")
        return entry.vectors

    def _matched(
        self, hits: Sequence[Hit], text: str, within: float | None, on_rerank: OnRerank | None
    ) -> list[Hit]:
        made: list[Hit] = []
        started = time.perf_counter()
        # Pictures with the same pixels match a text alike: they are read once.
        known: dict[str, float] = {}
        for first in range(0, len(hits), _AT_ONCE):
            if first and within is not None and time.perf_counter() - started > within:
                break
            batch = hits[first : first + _AT_ONCE]
            read = dict(self._read([hit for hit in batch if hit.digest not in known]))
            whole = {digest: one for digest, one in read.items() if not isinstance(one, str)}
            if whole:
                matches = self.retriever.match_pictures(whole.values(), text)
                known.update(zip(whole, map(float, matches), strict=True))
            for hit in batch:
                if hit.digest in known:
                    made.append(replace(hit, probability=known[hit.digest]))
                else:
                    made.append(replace(hit, changed=str(read[hit.digest])))
            if on_rerank is not None:
                each = (time.perf_counter() - started) / len(made)
                on_rerank(len(made), len(hits), each * (len(hits) - len(made)))
        return made

    def _read(self, hits: Sequence[Hit]) -> Iterator[tuple[str, AnyPicture | str]]:
        """What ITM reads of each picture, by digest; the reason if there is nothing."""
        entries = self.store.whole([hit.key for hit in hits])
        for hit in hits:
            entry = entries.get(hit.key)
            if entry is None:
                yield hit.digest, f"{hit.path} is no longer in the index"
            elif entry.features is not None:
                yield hit.digest, Encoded(entry.features, hit.digest)
            else:
                try:
                    yield hit.digest, _picture(entry, self.retriever.limits)
                except PictureError as error:
                    yield hit.digest, str(error)


def _picture(entry: Entry, limits: PictureLimits) -> Picture:
    """The indexed picture, or `PictureError` if it is another now."""
    if entry.reading is not None:
        picture = open_picture(io.BytesIO(entry.reading), limits=limits)
        return replace(picture, name=one_line(entry.path), digest=entry.digest or picture.digest)
    picture = open_picture(entry.file or entry.path, limits=limits)
    if picture.digest != entry.digest:
        raise PictureError(
            f"{one_line(entry.path)} has changed since it was indexed; index it again",
            name=one_line(entry.path),
            fault="unreadable",
        )
    return picture


def _hit(entry: Entry, similarity: float) -> Hit:
    return Hit(
        entry.key,
        entry.path,
        entry.file,
        entry.digest or "",
        entry.width or 0,
        entry.height or 0,
        float(np.clip(similarity, -1, 1)),
    )
