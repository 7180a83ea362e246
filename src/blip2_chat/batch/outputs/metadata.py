"""Captions in the metadata of a run's pictures: in the files themselves, or in .xmp files next to them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ...errors import MetadataError
from ...images import PictureLimits
from ...metadata.caption import CaptionText
from ...metadata.files import Outcome, Places, is_complete, now, write_metadata
from ..items import Item, stamp_of
from ..journal import Journal
from ..result import Result
from .ranked_tags import RankedTags

# Failures that are remembered for the summary.
_FAILURES = 5

Tagger: TypeAlias = "Callable[[Result], Sequence[str]]"
"""Keywords for a picture: from the words of its captions, or those of a list that fit it best."""


@dataclass(frozen=True)
class Metadata:
    """Where the captions go, and which keywords (None: none) go with them."""

    places: Places = field(default_factory=Places)
    tagger: Tagger | None = None

    def text(self, result: Result) -> str:
        return result.caption or ", ".join(result.answers.values())

    def tags(self, result: Result) -> tuple[str, ...]:
        return tuple(self.tagger(result)) if self.tagger else ()

    def tags_key(self, result: Result) -> object:
        """What the tags depend on, without finding them where that takes a model."""
        return self.tagger.key if isinstance(self.tagger, RankedTags) else self.tags(result)


@dataclass
class MetadataWriter:
    """Writes what is not written yet.

    The journal stores for each picture a hash of what was written and the state of the file afterwards: where both
    are as they were, the file is not opened again. A picture that cannot be written is tried again by each run.
    """

    metadata: Metadata
    journal: Journal
    limits: PictureLimits
    told: Counter[str] = field(default_factory=Counter)  # "written", "unchanged", "kept", "failed", "nowhere"
    failures: list[tuple[str, MetadataError]] = field(default_factory=list)

    def is_left_alone(self, item: Item) -> bool:
        """Whether a picture without a result has a description and an alternative text that this program did not
        write, and gets no keywords, so that it needs no caption."""
        return (
            item.file is not None
            and self.metadata.tagger is None
            and not self.journal.has(item.key)
            and is_complete(item.file, self.metadata.places, self.limits)
        )

    def begin_again(self) -> None:
        """From here on, every picture is visited once: counts what is there and not what was seen before."""
        for name in ("kept", "failed", "nowhere"):
            del self.told[name]
        self.failures.clear()
        # Those that were just written will be found unchanged.
        self.told["unchanged"] = -self.told["written"]

    def write(self, results: Iterable[tuple[str, str | None, Result]]) -> None:
        """Writes the metadata for (key, local path of the picture, result)."""
        marks = []
        for key, picture, result in results:
            if result.error is not None:
                continue
            if picture is None:
                self.told["nowhere"] += 1
                continue
            content = self._hash(result)
            mark = self.journal.metadata(key)
            if mark is not None and mark == self._mark(content, mark.split(" ")[1], picture):
                self.told["kept" if mark.split(" ")[1] == "kept" else "unchanged"] += 1
                continue
            text = self.metadata.text(result)
            try:
                caption = CaptionText(text, text, self.metadata.tags(result), result.model, now())
                outcome: Outcome = write_metadata(
                    picture, caption, self.metadata.places, digest=result.digest, limits=self.limits
                )
            except MetadataError as error:
                self.told["failed"] += 1
                if len(self.failures) < _FAILURES:
                    self.failures.append((picture, error))
                continue
            self.told[outcome] += 1
            # Our own change of the file is none that calls for another caption.
            stamp = stamp_of(picture) if outcome == "written" and self.metadata.places.embed else None
            marks.append((key, self._mark(content, outcome, picture), stamp))
        if marks:
            self.journal.set_metadata(marks)

    def _hash(self, result: Result) -> str:
        places = self.metadata.places
        parts = (self.metadata.text(result), self.metadata.tags_key(result), result.model, places)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def _mark(self, content: str, outcome: str, picture: str) -> str:
        """What was written, how that ended, and the state of the files that hold it."""
        styles = (f"{picture}.xmp", os.fspath(self.metadata.places.sidecar_path(picture, "adobe")))
        state = "/".join(str(stamp_of(file)) for file in (picture, *dict.fromkeys(styles)))
        return f"{content} {outcome} {state}"
