"""The protocol of engines for image-text retrieval; `retriever.py` knows nothing else of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..checkpoint.retrieval_config import RetrievalConfig
from .engine import Floats, Ints


class RetrievalEngine(Protocol):
    """One loaded model. Not thread-safe: one caller at a time."""

    config: RetrievalConfig
    name: str  # "onnx" or "torch"
    precision: str  # "fp32", "fp16", "bf16", "int8", "int4"
    device: str  # "cpu", "cuda", ...

    def encode_image(self, pixels: Floats) -> Floats:
        """float32 pixels [B, 3, H, W] -> the picture encoder's features [B, P, W]."""

    def embed_pictures(self, features: Floats) -> Floats:
        """Features [B, P, W] -> embeddings [B, Q, E], rows of length 1."""

    def embed_texts(self, token_ids: Sequence[Sequence[int]]) -> Floats:
        """Texts, each from `[CLS]` to `[SEP]` -> embeddings [B, E], rows of length 1."""

    def match_logits(self, features: Floats, token_ids: Sequence[Sequence[int]]) -> Floats:
        """Features [B, P, W] and as many texts -> logits [B, 2]: that they do not match, and that they do."""

    def close(self) -> None:
        """Frees the model's memory."""


def padded(token_ids: Sequence[Sequence[int]], queries: int) -> tuple[Ints, np.ndarray]:
    """Texts of any lengths -> ids int64 [B, T], and a mask int32 [B, queries + T] that is 0 behind a text's end."""
    longest = max(map(len, token_ids))
    ids = np.zeros((len(token_ids), longest), np.int64)
    mask = np.zeros((len(token_ids), queries + longest), np.int32)
    for row, text in enumerate(token_ids):
        ids[row, : len(text)] = text
        mask[row, : queries + len(text)] = 1
    return ids, mask
