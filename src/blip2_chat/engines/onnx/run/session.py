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
from ..manifest import Verified
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
        name, shape = "query_vectors", self._vectors_shape
        if self.config.reads_instruction:
            name, shape = "features", (self.config.vision.num_positions, self.config.vision.hidden_size)
        return run_pictures(opened(self._picture), self.config.vision.image_size, pixels, name, shape)

    def query(self, pictures: Floats, instructions: Sequence[Sequence[int]]) -> Floats:
        """See `Engine.query`."""
        if not self.config.reads_instruction:
            return pictures
        runner = opened(self._query)
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
        return opened(self._language).prefill(np.asarray(query_vectors, np.float32), token_ids, state)

    def step(self, state: State, token_ids: Sequence[int]) -> Floats:
        """See `Engine.step`."""
        return opened(self._language).step(state, token_ids)

    def close(self) -> None:
        """Frees the model's memory; the engine cannot be used after."""
        self._picture = self._query = self._language = None


def run_pictures(runner: Runner, size: int, pixels: Floats, output: str, shape: tuple[int, int]) -> Floats:
    """float32 pixels [B, 3, size, size] -> what the picture graph gives as `output`, [B, *shape]."""
    if pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
        raise ValueError(f"pixels are {list(pixels.shape)}; the model wants [B, 3, {size}, {size}]")
    given = np.empty((len(pixels), *shape), np.float32)
    # One by one: a single picture has enough rows to use all cores, and its result must not depend on others
    # in the batch.
    for i in range(len(pixels)):
        picture = np.ascontiguousarray(pixels[i : i + 1], np.float32)
        runner.run({"pixels": picture}, {output: given[i : i + 1]})
    return given


def opened(part: _Part | None) -> _Part:
    """A part of an engine that is open. Raises `ValueError` if it was closed."""
    if part is None:
        raise ValueError("this engine is closed")
    return part


def load_onnx_engine(converted: Path | Verified, threads: int | None = None) -> OnnxEngine:
    """Loads the folder that `convert` wrote. `threads`: by default one per physical core.

    `CheckpointError` when the folder is not complete, and safe: it is checked, if it is not `Verified`.
    """
    found = verified(converted)
    folder, manifest, config = found.folder, found.manifest, found.config
    if not isinstance(config, ModelConfig):
        raise CheckpointError(
            f"{folder} matches pictures with texts: load it with load_retriever()", path=folder
        )
    runners = load_graphs(found, threads)
    shape = (config.text.vocab_size, config.text.hidden_size)
    try:
        # Mapped, because a conversation reads only a few rows.
        table = np.memmap(folder / "embeddings.bin", np.dtype(manifest.embeddings_dtype), "r", shape=shape)
    except (OSError, ValueError) as error:
        raise _unloadable(folder, error) from None
    language: LanguageModel
    if config.text.is_decoder_only:
        language = DecoderModel(config, runners["language"], table)
    else:
        language = T5Model(config, runners["prompt"], runners["language"], table)
    return OnnxEngine(config, manifest.precision, runners["picture"], language, runners.get("query"))


def verified(converted: Path | Verified) -> Verified:
    """A converted folder, checked if it is not yet; `CheckpointError` when it is not what `convert` writes."""
    if isinstance(converted, Verified):
        return converted
    from ..verify import verify  # brings the onnx package, which running a model does not need

    return verify(Path(converted))


def load_graphs(converted: Verified, threads: int | None) -> dict[str, Runner]:
    """All at once: ONNX Runtime packs the weights of a graph on one core."""
    folder, graphs = converted.folder, converted.manifest.graphs
    with ThreadPoolExecutor(len(graphs)) as pool:
        started = {
            name: pool.submit(Runner, folder / f"{name}.onnx", threads, mapped)
            for name, mapped in graphs.items()
        }
        try:
            return {name: one.result() for name, one in started.items()}
        except Exception as error:  # ONNX Runtime's own have no base but this
            raise _unloadable(folder, error) from None


def _unloadable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder} cannot be loaded: {short(str(error), 200)}; when its files are damaged, convert the "
        "checkpoint again",
        path=folder,
    )


def _satisfies_the_protocol(engine: OnnxEngine) -> Engine:
    return engine
