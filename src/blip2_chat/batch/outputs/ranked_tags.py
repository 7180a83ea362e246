"""Keywords of a run's pictures out of a list, by a retrieval model that is loaded when the first is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ...errors import MetadataError, PictureError
from ...tagging import Tagger
from ..result import Result


@dataclass(frozen=True)
class RankedTags:
    """load: makes the tagger. key: what its tags depend on besides the picture, so that those of pictures that have
    them need not be found again."""

    load: Callable[[], Tagger]
    key: str

    @cached_property
    def _tagger(self) -> Tagger:
        return self.load()

    def __call__(self, result: Result) -> tuple[str, ...]:
        """Raises `MetadataError` where the picture cannot be read any more."""
        try:
            return self._tagger.tags(result.path)
        except PictureError as error:
            raise MetadataError(*error.message, path=result.path) from None
