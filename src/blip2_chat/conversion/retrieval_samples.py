"""Shipped pictures, alone and with texts, for one retrieval checkpoint: to calibrate with, and to measure on."""

from __future__ import annotations

from collections.abc import Iterable

from ..checkpoint.embedded import sample_pictures
from ..checkpoint.inspect import Checkpoint
from ..checkpoint.retrieval_config import RetrievalConfig
from ..checkpoint.wordpiece import WordPiece
from ..engines.onnx.reference import Sample
from ..images import Picture, Preprocess, open_picture, to_pixels


def encoder_samples(checkpoint: Checkpoint[RetrievalConfig], pictures: Iterable[Picture]) -> list[Sample]:
    """Pictures alone: of a retrieval model only the picture encoder is quantised."""
    preprocess = _preprocess(checkpoint)
    return [Sample(to_pixels(picture, preprocess), [], []) for picture in pictures]


def shipped_pictures(which: slice) -> list[Picture]:
    """Some of the pictures that ship with the package."""
    return [open_picture(one.path) for one in sample_pictures()[which]]


def pairs(checkpoint: Checkpoint[RetrievalConfig], which: slice) -> list[Sample]:
    """Some of the shipped pictures, each with the captions of all that there are."""
    tokenizer = WordPiece.from_folder(checkpoint.processor or checkpoint.folder, checkpoint.config)
    texts = [tokenizer.encode(one.caption) for one in sample_pictures()]
    alone = encoder_samples(checkpoint, shipped_pictures(which))
    return [Sample(one.pixels, text, []) for one in alone for text in texts]


def _preprocess(checkpoint: Checkpoint[RetrievalConfig]) -> Preprocess:
    small = checkpoint.processor or checkpoint.folder
    return Preprocess.for_model(small, checkpoint.config.vision.image_size)
