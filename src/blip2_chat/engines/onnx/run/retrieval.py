"""`OnnxRetrievalEngine`: a converted retrieval model, loaded into ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ....checkpoint.retrieval_config import RetrievalConfig
from ....errors import CheckpointError
from ...engine import Floats
from ...retrieval import RetrievalEngine, padded
from ..manifest import Verified
from .runtime import Runner
from .session import load_graphs, opened, run_pictures, verified


class OnnxRetrievalEngine:
    """BLIP-2 for image-text retrieval on the CPU; see `RetrievalEngine`. Not thread-safe."""

    name = "onnx"
    device = "cpu"

    def __init__(self, config: RetrievalConfig, precision: str, picture: Runner, matching: Runner) -> None:
        self.config = config
        self.precision = precision
        self._picture: Runner | None = picture
        self._matching: Runner | None = matching

    def encode_image(self, pixels: Floats) -> Floats:
        vision = self.config.vision
        shape = (vision.num_positions, vision.hidden_size)
        return run_pictures(opened(self._picture), vision.image_size, pixels, "features", shape)

    def embed_pictures(self, features: Floats) -> Floats:
        count = self.config.num_query_tokens
        embeddings = np.empty((len(features), count, self.config.embedding_size), np.float32)
        ids = np.zeros((len(features), 0), np.int64)
        self._match(features, ids, np.ones((len(features), count), np.int32), picture_embeddings=embeddings)
        return embeddings

    def embed_texts(self, token_ids: Sequence[Sequence[int]]) -> Floats:
        embeddings = np.empty((len(token_ids), 1, self.config.embedding_size), np.float32)
        # There are no queries, so nothing reads the picture.
        nothing = np.zeros((len(token_ids), 1, self.config.vision.hidden_size), np.float32)
        self._match(nothing, *padded(token_ids, 0), text_embeddings=embeddings)
        return embeddings[:, 0]

    def match_logits(self, features: Floats, token_ids: Sequence[Sequence[int]]) -> Floats:
        count = self.config.num_query_tokens
        logits = np.empty((len(features), count, 2), np.float32)
        self._match(features, *padded(token_ids, count), match_logits=logits)
        mean: Floats = logits.mean(axis=1)
        return mean

    def _match(self, features: Floats, ids: np.ndarray, mask: np.ndarray, **outputs: Floats) -> None:
        inputs = {
            "features": np.ascontiguousarray(features, np.float32),
            "count": np.array([mask.shape[1] - ids.shape[1]]),
            "ids": ids,
            "mask": mask,
        }
        opened(self._matching).run(inputs, outputs)

    def close(self) -> None:
        self._picture = self._matching = None


def load_onnx_retriever(converted: Path | Verified, threads: int | None = None) -> OnnxRetrievalEngine:
    """`load_onnx_engine` for a folder that was converted from a retrieval model."""
    found = verified(converted)
    if not isinstance(found.config, RetrievalConfig):
        raise CheckpointError(f"{found.folder} is a chat model: load it with load()", path=found.folder)
    runners = load_graphs(found, threads)
    return OnnxRetrievalEngine(
        found.config, found.manifest.precision, runners["picture"], runners["matching"]
    )


def _satisfies_the_protocol(engine: OnnxRetrievalEngine) -> RetrievalEngine:
    return engine
