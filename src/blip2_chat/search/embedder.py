"""The retrieval model as the worker of a run: pixels -> embeddings, and what else an index keeps of a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..batch.inputs.pictures import Opened
from ..batch.result import Result
from ..engines.engine import Floats
from ..images import PictureLimits, Preprocess
from ..retriever import Retriever
from .store import Entry, Maker


@dataclass(frozen=True, eq=False)
class Indexed:
    """An indexed picture: what is stored of it, and what `Result` says of it."""

    entry: Entry
    duplicate_of: str | None = None

    @property
    def path(self) -> str:
        return self.entry.path

    @property
    def digest(self) -> str | None:
        return self.entry.digest

    @property
    def error(self) -> str | None:
        return self.entry.error

    @property
    def text(self) -> str:
        """For a progress line."""
        return self.error or ""

    def result(self) -> Result:
        """As a journal keeps it."""
        one = self.entry
        return Result(one.path, error=one.error, width=one.width, height=one.height, digest=one.digest)

    def saying(self, words: Entry | Indexed, **more: Any) -> Indexed:
        """With the embeddings of `write`, or of a picture with the same pixels."""
        found = words.entry if isinstance(words, Indexed) else words
        made = replace(self.entry, vectors=found.vectors, features=found.features)
        return Indexed(made, more.get("duplicate_of"))


class Embedder:
    """A retriever at work. `encode` may run in another thread than `write`: they are different graphs."""

    def __init__(self, retriever: Retriever, *, keeps_features: bool) -> None:
        self._retriever = retriever
        self._keeps_features = keeps_features

    @property
    def preprocess(self) -> Preprocess:
        return self._retriever.preprocess

    @property
    def limits(self) -> PictureLimits:
        return self._retriever.limits

    def begin(self, opened: Opened) -> Indexed:
        item, picture = opened.item, opened.picture
        entry = Entry(item.key, item.path, item.file, item.stamp, error=opened.error)
        if picture is None:
            return Indexed(entry)
        width, height = picture.size
        # A file is there to be opened again; a member of an archive or a download may not be.
        reading = None if item.file is not None else as_png(picture.pixels, self.preprocess)
        return Indexed(replace(entry, digest=picture.digest, width=width, height=height, reading=reading))

    def encode(self, pixels: Floats) -> Floats:
        """Pixels [B,3,H,W] -> the encoder's features [B,positions,width]."""
        return self._retriever.engine.encode_image(pixels)

    def write(self, vectors: Floats, digests: Sequence[str]) -> list[Entry]:
        """Features [B,positions,width] -> the embeddings [Q,E] of B pictures."""
        made = self._retriever.engine.embed_pictures(vectors)
        kept = vectors if self._keeps_features else [None] * len(made)
        return [
            Entry("", "", vectors=rows, features=features) for rows, features in zip(made, kept, strict=True)
        ]

    def bytes_per_picture(self) -> int:
        """Memory that one more picture in a batch takes."""
        config = self._retriever.config
        size = config.vision.image_size
        positions, width = features_shape(self._retriever)
        return 4 * (3 * size * size + 8 * positions * width)


def maker_of(retriever: Retriever, *, revision: str | None = None, processor: str | None = None) -> Maker:
    """What an index says of the model that made it."""
    config, plan = retriever.config, retriever.plan
    return Maker(
        retriever.name,
        plan.engine,
        plan.precision,
        retriever.identity,
        config.num_query_tokens,
        config.embedding_size,
        features_shape(retriever),
        revision,
        processor,
    )


def features_shape(retriever: Retriever) -> tuple[int, int]:
    """The shape of the encoder's output: [positions, width]."""
    vision = retriever.config.vision
    return (vision.image_size // vision.patch_size) ** 2 + 1, vision.hidden_size


def as_png(pixels: Floats, preprocess: Preprocess) -> bytes:
    """The model's input [1,3,H,W] as a picture: the very bytes that were normalised."""
    shown = pixels[0].transpose(1, 2, 0)
    if preprocess.do_normalize:
        shown = shown * preprocess.std + preprocess.mean
    if preprocess.do_rescale:
        shown = shown / preprocess.rescale_factor
    levels: npt.NDArray[np.uint8] = np.clip(np.rint(shown), 0, 255).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(levels, "RGB").save(written, "PNG", compress_level=1)
    return written.getvalue()
