"""Keywords for a picture, out of a list: those that a retrieval model finds fitting."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .errors import GenerationError
from .retriever import AnyPicture, Match, Retriever, best_of_queries

# Of a long list, so many of the words that are nearest to a picture (ITC) are read together with it (ITM).
_READ = 32


class Tagger:
    """Ranks the words of a list by likeness to a picture. Not for use by several threads at once.

        tagger = Tagger(blip2_chat.load_retriever("Salesforce/blip2-itm-vit-g"), ["dog", "beach", "wedding"])
        tagger.tags("photo.jpg")  # ("dog", "beach")

    The words may be phrases. The list is embedded once, so it may be long.
    """

    def __init__(
        self, retriever: Retriever, words: Iterable[str], *, most: int = 5, least: float = 0.5
    ) -> None:
        """most: tags per picture. least: the probability (ITM) that a word must have to match the picture.

        Raises `GenerationError` for an empty list, an empty word, or one that is too long."""
        self.retriever = retriever
        self.words = tuple(dict.fromkeys(words))
        if not self.words:
            raise GenerationError("there are no words to choose tags from; give a list of at least one")
        if most < 1 or not 0 <= least <= 1:
            raise GenerationError("most is at least 1, and least between 0 and 1")
        self.most = most
        self.least = least
        self._embeddings = retriever.embed_texts(self.words)  # [W, E]

    def rank(self, picture: AnyPicture) -> list[Match]:
        """The words nearest to a picture, the most probable first. Raises `PictureError`."""
        encoded = self.retriever.encode(picture)
        similarities = best_of_queries(self.retriever.embed_picture(encoded)[None], self._embeddings)[0]
        nearest = np.argsort(-similarities, kind="stable")[: max(_READ, 2 * self.most)]
        words = [self.words[index] for index in nearest]
        return self.retriever.matches(encoded, words, similarities[nearest])

    def tags(self, picture: AnyPicture) -> tuple[str, ...]:
        """The words that match a picture, the most probable first. Raises `PictureError`."""
        return tuple(one.text for one in self.rank(picture) if one.probability >= self.least)[: self.most]
