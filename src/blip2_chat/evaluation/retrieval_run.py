"""Recall of a retrieval model on a set of captioned pictures, as the BLIP-2 paper measures it (section 4.4, table 5).

ITC's similarity finds the first `candidates` texts of every picture, and the first pictures of every text; the
model then reads each pair together and orders them by ITM's logit of a match plus the similarity, which is what the
authors' code does (LAVIS, `compute_sim_matrix`). R@n is the share of pictures (texts) with a text (the picture) of
theirs among the first n.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.requirements import MATCHED_AT_ONCE
from ..engines.engine import Floats, Ints
from ..errors import Blip2ChatError
from ..retriever import Retriever, best_of_queries
from ..system.progress import Progress, silent
from .benchmarks import Benchmark, Case
from .saved import SavedRows

CANDIDATES = 128
AT = (1, 5, 10)
# LAVIS's, of its retrieval data and of the text that its model reads.
_MOST_WORDS = 50
_MOST_TOKENS = 35
# Pictures whose similarities to all texts are in memory at once: 100 MB for the 25,000 texts of COCO.
_BLOCK = 32


def plain_caption(caption: str) -> str:
    """LAVIS's `blip_caption` processor: lower case, spaces for some punctuation, at most 50 words."""
    text = re.sub(r'[.!"()*#:;~]', " ", caption.lower())
    return " ".join(re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ").split(" ")[:_MOST_WORDS])


@dataclass(frozen=True)
class _Embedded:
    """A picture, float32 [Q, E], and its texts, float32 [T, E]."""

    picture: Floats
    texts: Floats


class RetrievalRun:
    """A retriever on a set of captioned pictures. First every picture and text is embedded, then every picture is
    read again with its candidates; `saved` gets each picture as it is done, and a run that finds some there goes on
    after them. In memory are the embeddings (32 kB per picture) and the scores of the candidates, never the pictures.
    """

    def __init__(
        self,
        retriever: Retriever,
        benchmark: Benchmark,
        candidates: int = CANDIDATES,
        saved: Path | None = None,
    ) -> None:
        self.retriever = retriever
        self.benchmark = benchmark
        self.candidates = candidates
        self.seconds = 0.0
        # All texts, and whose each is: int64 [T].
        self._texts = [text for case in benchmark.cases for text in case.expected]
        self._owners = np.repeat(
            np.arange(len(benchmark.cases)), [len(one.expected) for one in benchmark.cases]
        )
        self._count = min(candidates, len(self._texts)), min(candidates, len(benchmark.cases))
        self._embedded: dict[int, _Embedded] = {}
        self._scores: dict[int, dict[int, float]] = {}
        self._saved = None if saved is None else SavedRows(saved, self._heading(candidates))
        self._read_saved()
        self.resumed = len(self._embedded)

    @property
    def embedded(self) -> int:
        """Pictures that are embedded."""
        return len(self._embedded)

    @property
    def reranked(self) -> int:
        """Pictures that were read together with their candidates."""
        return len(self._scores)

    @property
    def is_whole(self) -> bool:
        return self.reranked == len(self.benchmark.cases)

    def run(self, on_progress: Progress = silent) -> None:
        """What is not done yet. `Blip2ChatError` for a picture that cannot be opened, which it names."""
        started = time.perf_counter()
        cases = self.benchmark.cases
        try:
            for at in (one for one in range(len(cases)) if one not in self._embedded):
                self._embedded[at] = made = self._embed(cases[at])
                self._save(at, {"picture": _packed(made.picture), "texts": _packed(made.texts)})
                on_progress("embedding", self.embedded, len(cases))
            wanted = self._wanted()
            for at in (one for one in range(len(cases)) if one not in self._scores):
                self._scores[at] = self._match(at, wanted[at])
                self._save(at, {"scores": self._scores[at]})
                on_progress("matching", self.reranked, len(cases))
        finally:
            self.seconds = time.perf_counter() - started

    def scores(self) -> dict[str, float]:
        """R@1, R@5 and R@10 in percent by name, in both directions: of ITC once all is embedded, and after ITM
        re-ranked once all is matched."""
        found: dict[str, float] = {}
        if self.embedded < len(self.benchmark.cases):
            return found
        for name, reranks in (("", True), (" (ITC)", False)):
            if not reranks or self.is_whole:
                found |= {f"{metric}{name}": value for metric, value in self._recalls(reranks).items()}
        return found

    def _recalls(self, reranks: bool) -> dict[str, float]:
        texts_of, pictures_of = self._candidates
        of_pictures = [
            (self._owners[self._ordered(texts, at, None, self._count[0], reranks)] == at)
            for at, texts in enumerate(texts_of)
        ]
        of_texts = [
            self._ordered(pictures, None, text, self._count[1], reranks) == self._owners[text]
            for text, pictures in enumerate(pictures_of)
        ]
        return {
            f"{name} R@{first}": 100 * float(np.mean([row[:first].any() for row in right]))
            for name, right in (("picture to text", of_pictures), ("text to picture", of_texts))
            for first in AT
        }

    def _ordered(
        self, found: Ints, picture: int | None, text: int | None, candidates: int, reranks: bool
    ) -> Ints:
        """The texts of a picture, or the pictures of a text: the first `candidates` in the order of their scores, the
        others in that of their similarities."""
        if not reranks:
            return found
        pairs = [
            (one if picture is None else picture, one if text is None else text) for one in found[:candidates]
        ]
        scores = np.array([self._scores[int(a)][int(b)] for a, b in pairs])
        best = np.argsort(-scores, kind="stable")
        ordered: Ints = np.concatenate([found[:candidates][best], found[candidates:]])
        return ordered

    # The two steps

    def _embed(self, case: Case) -> _Embedded:
        try:
            picture = self.retriever.embed_picture(case.picture)
        except Blip2ChatError as error:
            raise Blip2ChatError(f"{case.key}: {error}") from None
        return _Embedded(picture, self.retriever.engine.embed_texts([*map(self._ids, case.expected)]))

    def _match(self, at: int, texts: Sequence[int]) -> dict[int, float]:
        """ITM's logit of a match plus the similarity of a picture and each of the texts."""
        features = self.retriever.encode(self.benchmark.cases[at].picture).features[None]
        scores: dict[int, float] = {}
        own = self._embedded[at].picture
        for start in range(0, len(texts), MATCHED_AT_ONCE):
            batch = texts[start : start + MATCHED_AT_ONCE]
            ids = [self._ids(self._texts[text]) for text in batch]
            logits = self.retriever.engine.match_logits(np.repeat(features, len(batch), axis=0), ids)[:, 1]
            likeness = best_of_queries(own[None], self._vectors[batch])[0]
            scores |= {text: float(value) for text, value in zip(batch, logits + likeness, strict=True)}
        return scores

    def _ids(self, text: str) -> list[int]:
        return self.retriever.tokenizer.encode(plain_caption(text), most=_MOST_TOKENS)

    def _wanted(self) -> list[list[int]]:
        """For every picture the texts to read it with: its own candidates, and the texts whose candidate it is."""
        texts_of, pictures_of = self._candidates
        wanted = [set(map(int, row[: self._count[0]])) for row in texts_of]
        for text, row in enumerate(pictures_of):
            for picture in row[: self._count[1]]:
                wanted[int(picture)].add(text)
        return [sorted(one) for one in wanted]

    @cached_property
    def _vectors(self) -> Floats:
        """Of all texts, float32 [T, E]; to be asked for when all are embedded."""
        return np.concatenate([self._embedded[at].texts for at in range(self.embedded)])

    @cached_property
    def _candidates(self) -> tuple[Ints, Ints]:
        """By similarity, the best first: texts of every picture, int64 [P, at least 10], and pictures of every text,
        [T, at least 10], where there are so many. To be asked for when all are embedded."""
        keep = min(max(self._count[0], AT[-1]), len(self._texts))
        keep_pictures = min(max(self._count[1], AT[-1]), self.embedded)
        texts_of = []
        values = np.empty((len(self._texts), 0), np.float32)
        pictures_of = np.empty((len(self._texts), 0), np.int64)
        for block in self._blocks():
            likeness = best_of_queries(np.stack([self._embedded[at].picture for at in block]), self._vectors)
            texts_of.append(_first(likeness, keep))
            values = np.concatenate([values, likeness.T], axis=1)
            places = np.broadcast_to(np.array(block), (len(self._texts), len(block)))
            pictures_of = np.concatenate([pictures_of, places], axis=1)
            best = _first(values, min(keep_pictures, values.shape[1]))
            values = np.take_along_axis(values, best, axis=1)
            pictures_of = np.take_along_axis(pictures_of, best, axis=1)
        return np.concatenate(texts_of), pictures_of

    def _blocks(self) -> Iterator[range]:
        for start in range(0, self.embedded, _BLOCK):
            yield range(start, min(start + _BLOCK, self.embedded))

    # The file

    def _heading(self, candidates: int) -> dict[str, Any]:
        return {
            "model": self.retriever.name,
            "engine": self.retriever.engine.name,
            "precision": self.retriever.engine.precision,
            "identity": self.retriever.identity,
            "benchmark": self.benchmark.name,
            "candidates": candidates,
            # The candidates of one picture depend on all others.
            "pictures": len(self.benchmark.cases),
            "texts": len(self._texts),
        }

    def _save(self, at: int, row: dict[str, Any]) -> None:
        if self._saved is not None:
            self._saved.append([{"id": self.benchmark.cases[at].key, **row}])

    def _read_saved(self) -> None:
        if self._saved is None:
            return
        places = {case.key: at for at, case in enumerate(self.benchmark.cases)}
        shape = (-1, self.retriever.config.embedding_size)
        try:
            for row in self._saved.earlier():
                at = places[row["id"]]
                if "scores" in row:
                    self._scores[at] = {int(text): float(value) for text, value in row["scores"].items()}
                else:
                    self._embedded[at] = _Embedded(
                        *(_unpacked(row[name], shape) for name in ("picture", "texts"))
                    )
        except (KeyError, ValueError, TypeError, AttributeError):
            raise self._saved.foreign() from None


def _first(values: Floats, count: int) -> Ints:
    """The places of the largest `count` in each row, the largest first."""
    best: Ints = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return best


def _packed(values: Floats) -> str:
    return base64.b64encode(np.ascontiguousarray(values, np.float32).tobytes()).decode("ascii")


def _unpacked(text: str, shape: tuple[int, ...]) -> Floats:
    values: Floats = np.frombuffer(base64.b64decode(text), np.float32).reshape(shape)
    return values
