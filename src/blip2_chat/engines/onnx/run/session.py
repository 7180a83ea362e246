"""`OnnxEngine`: a converted folder, loaded into ONNX Runtime, behind the engine protocol."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from ....checkpoint.config import ModelConfig
from ....errors import CheckpointError
from ....system.small_files import short
from ...engine import Engine, Floats, State, require_instructions
from ..manifest import Manifest, Verified
from .language import DecoderModel, LanguageModel, T5Model
from .runtime import Array, Runner

_Part = TypeVar("_Part")


class OnnxEngine:
    """BLIP-2 on the CPU. `load` it; see `Engine` for what it does. Not thread-safe."""

    name = "onnx"
    device = "cpu"

    def __init__(
        self,
        config: ModelConfig,
        precision: str,
        picture: Runner,
        language: LanguageModel,
        query: Runner | None = None,
    ) -> None:
        """`query` is the Q-Former's graph, where it reads the instruction."""
        self.config = config
        self.precision = precision
        self._picture: Runner | None = picture
        self._query = query
        self._language: LanguageModel | None = language

    def encode_image(self, pixels: Floats) -> Floats:
        """See `Engine.encode_image`."""
        runner = _open(self._picture)
        size = self.config.vision.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            raise ValueError(f"pixels are {list(pixels.shape)}; the model wants [B, 3, {size}, {size}]")
        name, shape = "query_vectors", self._vectors_shape
        if self.config.reads_instruction:
            name, shape = "features", (self.config.vision.num_positions, self.config.vision.hidden_size)
        pictures = np.empty((len(pixels), *shape), np.float32)
        # One by one: a picture has rows enough to fill the cores, and so its vectors do not depend on company.
        for i in range(len(pixels)):
            picture = np.ascontiguousarray(pixels[i : i + 1], np.float32)
            runner.run({"pixels": picture}, {name: pictures[i : i + 1]})
        return pictures

    def query(self, pictures: Floats, instructions: Sequence[Sequence[int]]) -> Floats:
        """See `Engine.query`."""
        if not self.config.reads_instruction:
            return pictures
        runner = _open(self._query)
        require_instructions(instructions, len(pictures))
        vectors = np.empty((len(pictures), *self._vectors_shape), np.float32)
        # One by one, as pictures are.
        for i, instruction in enumerate(instructions):
            given: dict[str, Array] = {
                "features": np.ascontiguousarray(pictures[i : i + 1], np.float32),
                "instruction": np.array([instruction], np.int64),
                "mask": np.ones((1, self.config.num_query_tokens + len(instruction)), np.int32),
            }
            runner.run(given, {"query_vectors": vectors[i : i + 1]})
        return vectors

    @property
    def _vectors_shape(self) -> tuple[int, int]:
        return self.config.num_query_tokens, self.config.text.hidden_size

    def prefill(
        self, query_vectors: Floats, token_ids: Sequence[Sequence[int]], state: State | None = None
    ) -> tuple[State, Floats]:
        """See `Engine.prefill`."""
        return _open(self._language).prefill(np.asarray(query_vectors, np.float32), token_ids, state)

    def step(self, state: State, token_ids: Sequence[int]) -> Floats:
        """See `Engine.step`."""
        return _open(self._language).step(state, token_ids)

    def close(self) -> None:
        """Frees the model's memory; the engine cannot be used after."""
        self._picture = self._query = self._language = None


def _open(part: _Part | None) -> _Part:
    if part is None:
        raise ValueError("this engine is closed")
    return part


def load_onnx_engine(converted: Path | Verified, threads: int | None = None) -> OnnxEngine:
    """Loads the folder that `convert` wrote. `threads`: by default one per physical core.

    `CheckpointError` when the folder is not complete, and safe: it is checked, if it is not `Verified`.
    """
    if not isinstance(converted, Verified):
        from ..verify import verify  # brings the onnx package, which running a model does not need

        converted = verify(Path(converted))
    folder, manifest, config = converted.folder, converted.manifest, converted.config
    shape = (config.text.vocab_size, config.text.hidden_size)
    try:
        runners = _load_graphs(folder, manifest, threads)
        # Mapped: a conversation touches a few rows of it.
        table = np.memmap(folder / "embeddings.bin", np.dtype(manifest.embeddings_dtype), "r", shape=shape)
    except Exception as error:  # ONNX Runtime's own have no base but this
        raise CheckpointError(
            f"{folder} cannot be loaded: {short(str(error), 200)}; when its files are damaged, convert the "
            "checkpoint again",
            path=folder,
        ) from None
    language: LanguageModel
    if config.text.is_decoder_only:
        language = DecoderModel(config, runners["language"], table)
    else:
        language = T5Model(config, runners["prompt"], runners["language"], table)
    return OnnxEngine(config, manifest.precision, runners["picture"], language, runners.get("query"))


def _load_graphs(folder: Path, manifest: Manifest, threads: int | None) -> dict[str, Runner]:
    """All at once: ONNX Runtime packs the weights of a graph on one core."""
    with ThreadPoolExecutor(len(manifest.graphs)) as pool:
        started = {
            name: pool.submit(Runner, folder / f"{name}.onnx", threads, mapped)
            for name, mapped in manifest.graphs.items()
        }
        return {name: one.result() for name, one in started.items()}


def _satisfies_the_protocol(engine: OnnxEngine) -> Engine:
    return engine
