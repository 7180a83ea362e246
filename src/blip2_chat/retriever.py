"""Pictures and texts in one space, and whether they match (Li et al. 2023, section 4.5).

ITC, the contrastive half, compares embeddings that are made of pictures and of texts apart: fast, and fit for an
index. ITM, the matching half, reads a picture and a text together: slower and more exact, for the candidates that ITC
found.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias, TypeVar

import numpy as np

from .checkpoint.requirements import MATCHED_AT_ONCE
from .checkpoint.retrieval_config import RetrievalConfig
from .checkpoint.wordpiece import WordPiece
from .engines.engine import Floats
from .engines.retrieval import RetrievalEngine
from .errors import GenerationError, PictureError
from .generation.reuse import array_cache
from .images import (
    Picture,
    PictureLimits,
    PictureSource,
    PreparedPicture,
    Preprocess,
    is_one_picture,
    open_picture,
    to_pixels,
)
from .plan import Plan

# What is kept of the pictures seen last: those of 170 at 224 pixels, of 67 at 364.
_KEPT_BYTES = 256 * 1024 * 1024
_TEXTS_AT_ONCE = 64
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Encoded:
    """A picture as the encoder gives it: the slow part of a picture, to be used again.

    features: float32 [positions, vision width], 257 x 1408 in the official checkpoint (1.4 MB).
    digest: the picture's.
    """

    features: Floats = field(repr=False)
    digest: str


AnyPicture: TypeAlias = "PictureSource | PreparedPicture | Encoded"
"""Whatever stands for a picture here."""


@dataclass(frozen=True)
class Match:
    """How well a text fits a picture: `similarity` (ITC) in [-1, 1], and the `probability` (ITM) that it does."""

    text: str
    similarity: float
    probability: float


class Retriever:
    """One BLIP-2 retrieval model on one engine. Made by `blip2_chat.load_retriever`; not for use by several threads
    at once."""

    def __init__(
        self,
        engine: RetrievalEngine,
        tokenizer: WordPiece,
        preprocess: Preprocess,
        name: str,
        identity: str,
        plan: Plan,
        limits: PictureLimits | None = None,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.name = name
        # 64 hex digits: embeddings of models with another identity cannot be compared.
        self.identity = identity
        self.plan = plan
        self.limits = limits or PictureLimits()
        # What a pickle holds in place of the weights: a function that loads the model again, and its arguments.
        self.reduction: tuple[object, ...] | None = None
        self._kept = array_cache(_KEPT_BYTES)

    def __repr__(self) -> str:
        return f"<Retriever {self.name}: {self.engine.name}, {self.engine.precision}, {self.engine.device}>"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled, a retriever is its name and settings; it is loaded where it is unpickled."""
        if self.reduction is None:
            raise pickle.PicklingError("only a retriever made by blip2_chat.load_retriever can be pickled")
        return self.reduction

    @property
    def config(self) -> RetrievalConfig:
        return self.engine.config

    def open(self, picture: PictureSource) -> Picture:
        """A path, URL, bytes, file, PIL image or array -> a picture, within this retriever's limits."""
        return open_picture(picture, limits=self.limits)

    # Pictures and texts apart

    def encode(self, picture: AnyPicture) -> Encoded:
        """What the picture encoder makes of a picture. The other methods take it in place of the picture."""
        return self._encoded([picture])[0]

    def encode_all(self, pictures: Iterable[AnyPicture]) -> list[Encoded]:
        """`encode` for several; all of them are in memory then."""
        return [one for batch in _pictures(pictures) for one in self._encoded(batch)]

    def embed_picture(self, picture: AnyPicture) -> Floats:
        """A picture -> float32 [Q, E], one embedding of length 1 per query. Raises `PictureError`."""
        rows: Floats = self.engine.embed_pictures(self.encode(picture).features[None])[0]
        return rows

    def embed_pictures(self, pictures: Iterable[AnyPicture]) -> Floats:
        """Pictures -> float32 [P, Q, E]. They are taken a few at a time, so there may be many."""
        made = [self.engine.embed_pictures(self._features(batch)) for batch in _pictures(pictures)]
        shape = (0, self.config.num_query_tokens, self.config.embedding_size)
        return np.concatenate([np.empty(shape, np.float32), *made])

    def embed_text(self, text: str) -> Floats:
        """A text -> float32 [E], of length 1. Raises `GenerationError` for one that is too long."""
        row: Floats = self.embed_texts([text])[0]
        return row

    def embed_texts(self, texts: Iterable[str]) -> Floats:
        """Texts -> float32 [T, E]."""
        made = [
            self.engine.embed_texts([self.tokenizer.encode(text) for text in batch])
            for batch in _batches(_checked(texts), _TEXTS_AT_ONCE)
        ]
        return np.concatenate([np.empty((0, self.config.embedding_size), np.float32), *made])

    def similarity(self, pictures: Iterable[AnyPicture], texts: Iterable[str]) -> Floats:
        """ITC: how near every picture is to every text, float32 [P, T] in [-1, 1]."""
        return best_of_queries(self.embed_pictures(pictures), self.embed_texts(texts))

    # Pictures and texts together

    def match(self, picture: AnyPicture, text: str) -> float:
        """ITM: the probability that a text describes a picture."""
        return float(self.match_texts(picture, [text])[0])

    def match_pictures(self, pictures: Iterable[AnyPicture], text: str) -> Floats:
        """`match` of every picture with one text, float32 [P]: re-ranks what ITC found."""
        (ids,) = map(self.tokenizer.encode, _checked([text]))
        made = []
        for batch in _pictures(pictures):
            features = self._features(batch)
            made.append(_probabilities(self.engine.match_logits(features, [ids] * len(features))))
        return np.concatenate([np.empty(0, np.float32), *made])

    def match_texts(self, picture: AnyPicture, texts: Iterable[str]) -> Floats:
        """`match` of one picture with every text, float32 [T]."""
        tokens = [self.tokenizer.encode(text) for text in _checked(texts)]
        features = self.encode(picture).features[None]
        made = []
        for batch in _batches(tokens, MATCHED_AT_ONCE):
            logits = self.engine.match_logits(np.repeat(features, len(batch), axis=0), batch)
            made.append(_probabilities(logits))
        return np.concatenate([np.empty(0, np.float32), *made])

    def rank(self, picture: AnyPicture, texts: Sequence[str]) -> list[Match]:
        """Which texts fit a picture, the best first by ITM's probability: zero-shot labels, for one."""
        texts = _checked(texts)
        encoded = self.encode(picture)
        return self.matches(encoded, texts, self.similarity([encoded], texts)[0] if texts else [])

    def matches(self, encoded: Encoded, texts: Sequence[str], similarities: Sequence[float]) -> list[Match]:
        """Texts whose similarity to a picture is known, each read together with it, the most probable first."""
        probabilities = self.match_texts(encoded, texts)
        matches = [
            Match(text, float(similarity), float(probability))
            for text, similarity, probability in zip(texts, similarities, probabilities, strict=True)
        ]
        return sorted(matches, key=lambda one: (-one.probability, -one.similarity))

    def close(self) -> None:
        """Frees the model's memory."""
        self._kept = array_cache(_KEPT_BYTES)
        self.engine.close()

    def _features(self, batch: Sequence[AnyPicture]) -> Floats:
        return np.stack([one.features for one in self._encoded(batch)])

    def _encoded(self, batch: Sequence[AnyPicture]) -> list[Encoded]:
        """Pictures that are not kept are encoded together, each content once."""
        given = [one if isinstance(one, (Encoded, PreparedPicture)) else self.open(one) for one in batch]
        found: dict[str, Floats] = {}
        missing: dict[str, Picture | PreparedPicture] = {}
        for one in given:
            if isinstance(one, Encoded):
                continue
            kept = self._kept.get(one.digest)
            if kept is None:
                missing[one.digest] = one
            else:
                found[one.digest] = kept
        if missing:
            made = self.engine.encode_image(np.concatenate([self._pixels(one) for one in missing.values()]))
            for digest, features in zip(missing, made, strict=True):
                found[digest] = features.copy()  # else one picture would keep the features of all in memory
                self._kept.put(digest, found[digest])
        return [one if isinstance(one, Encoded) else Encoded(found[one.digest], one.digest) for one in given]

    def _pixels(self, picture: Picture | PreparedPicture) -> Floats:
        return to_pixels(picture, self.preprocess) if isinstance(picture, Picture) else picture.pixels


def best_of_queries(pictures: Floats, texts: Floats) -> Floats:
    """ITC's score of embeddings: [P, Q, E] and [T, E] -> [P, T], for each text that of the picture's best query."""
    best: Floats = (pictures @ texts.T).max(axis=1)
    return best


def _probabilities(logits: Floats) -> Floats:
    """Logits [B, 2] -> that of a match, [B]."""
    rows: Floats = 1 / (1 + np.exp((logits[:, 0] - logits[:, 1]).clip(-80, 80)))
    return rows


def _pictures(pictures: Iterable[AnyPicture]) -> Iterator[list[AnyPicture]]:
    if isinstance(pictures, (Encoded, PreparedPicture)) or is_one_picture(pictures):
        raise PictureError("a list of pictures was expected, and one picture was given: put it in a list")
    return _batches(pictures, MATCHED_AT_ONCE)


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """The items, at most `size` at a time."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def _checked(texts: Iterable[str]) -> list[str]:
    given = [] if isinstance(texts, str) else list(texts)
    if isinstance(texts, str) or not all(isinstance(one, str) for one in given):
        raise GenerationError(f"the texts are {texts!r}; give a list of texts")
    if not all(one.strip() for one in given):
        raise GenerationError("a text to match is empty; give at least a word")
    return given
