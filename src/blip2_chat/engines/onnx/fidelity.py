"""How closely a conversion follows its checkpoint: both run layer by layer over the same samples.

Neither model is ever loaded whole (`streamed.py`), so it works on machines that could not hold the checkpoint. The
next tokens are compared along given answers (teacher forcing): one difference does not make all later ones.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...checkpoint.inspect import AnyCheckpoint
from ...checkpoint.weights import Weights
from ...numerics import log_softmax
from ..engine import Floats
from .convert import BLOCK_SIZES, Plan, plan
from .graph.tensors import Tensor
from .graph_file import layout
from .manifest import EMBEDDINGS_FILE, Fidelity
from .reference import Read, Sample, answer
from .retrieval_reference import matched
from .streamed import StoredWeights
from .verify import verified_plan

Progress = Callable[[int, int], None]
"""Called with bytes of weights done, and in all."""

# Rounding column by column is this many times slower than the measured products of large matrices.
_SLOWER = 2.5
# The largest matrix, in bytes of the checkpoint, that an estimate reads.
_MEASURED = 64_000_000


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for samples: per sample query vectors [1, Q, D], and logits [1 + answer, V] after the
    prompt and after each token of the answer. For a retrieval model: embeddings [1, Q, E], and logits [1, 2] of
    whether picture and text match."""

    vectors: list[Floats]
    logits: list[Floats]


def _silent(done: int, total: int) -> None:
    pass


def reference_size(checkpoint: AnyCheckpoint) -> int:
    """Bytes of float32 weights that `reference_outputs` reads."""
    return plan(checkpoint.config, "fp32", tied_head=checkpoint.tied_head).nbytes


def reference_outputs(
    checkpoint: AnyCheckpoint, samples: Sequence[Sample], progress: Progress = _silent
) -> Outputs:
    """The checkpoint's own, in float32. Raises `CheckpointError` when a weight cannot be read."""
    planned = plan(checkpoint.config, "fp32", tied_head=checkpoint.tied_head)
    weights = Weights(checkpoint)

    def read(tensor: Tensor) -> Floats:
        return tensor.make(*(weights.read(name) for name, _ in tensor.sources))

    count = _counter(planned.nbytes, progress)
    return _outputs(planned, read, samples, count)


def converted_outputs(folder: Path, samples: Sequence[Sample], progress: Progress = _silent) -> Outputs:
    """Those of a converted folder. Raises `CheckpointError` when it is not whole."""
    folder = Path(folder).resolve()
    manifest, planned = verified_plan(folder)
    table = None
    if planned.embeddings is not None:
        dtype, shape = np.dtype(manifest.embeddings_dtype), planned.embeddings.shape
        table = np.memmap(folder / EMBEDDINGS_FILE, dtype, "r", shape=shape)
    references = {
        graph.name: {
            weight.name: weight for weight in layout(graph).model.graph.initializer if weight.external_data
        }
        for graph in planned.graphs
    }
    weights = StoredWeights(folder, table, references)
    count = _counter(planned.nbytes, progress)
    return _outputs(planned, weights, samples, count)


def _outputs(planned: Plan, read: Read, samples: Sequence[Sample], count: Callable[[int], None]) -> Outputs:
    if planned.embeddings is None:
        queries = planned.config.num_query_tokens
        return Outputs(*matched(planned.graphs, read, queries, samples, count))
    config, embeddings = planned.chat()
    return Outputs(*answer(planned.graphs, embeddings, config, read, samples, progress=count))


def _counter(total: int, progress: Progress) -> Callable[[int], None]:
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(min(done, total), total)

    return count


class Comparison:
    """Adds up how far a model's outputs are from the float32 reference's, over any number of samples."""

    def __init__(self) -> None:
        self._agreeing = 0
        self._tokens = 0
        self._divergence = 0.0
        self._errors: dict[bytes, float] = {}  # by picture: several samples may show one

    def add(self, samples: Sequence[Sample], reference: Outputs, other: Outputs) -> list[np.ndarray]:
        """Returns per sample which of its next tokens agree, bool [1 + answer]."""
        rows = []
        for at, sample in enumerate(samples):
            exact, given = reference.logits[at], other.logits[at]
            same = exact.argmax(axis=-1) == given.argmax(axis=-1)
            rows.append(same)
            self._agreeing += int(same.sum())
            self._tokens += len(same)
            self._divergence += float(divergence(exact, given).sum())
            wanted, found = reference.vectors[at], other.vectors[at]
            error = float(np.linalg.norm(found - wanted)) / max(float(np.linalg.norm(wanted)), 1e-30)
            self._errors[hashlib.sha256(sample.pixels.tobytes()).digest()] = error
        return rows

    def result(self) -> Fidelity:
        """Raises `ValueError` when nothing was added."""
        if not self._tokens:
            raise ValueError("there are no samples to compare")
        return Fidelity(
            agreement=self._agreeing / self._tokens,
            divergence=max(self._divergence / self._tokens, 0.0),
            vector_error=sum(self._errors.values()) / len(self._errors),
            tokens=self._tokens,
            pictures=len(self._errors),
        )


def divergence(exact: Floats, given: Floats) -> np.ndarray:
    """Kullback-Leibler divergence of softmax(given) from softmax(exact), both [N, V] -> [N], in nats."""
    p, q = (log_softmax(one.astype(np.float64)) for one in (exact, given))
    result: np.ndarray = (np.exp(p) * (p - q)).sum(axis=-1)
    return result


def estimated_seconds(checkpoint: AnyCheckpoint, pictures: int, tokens: int) -> float:
    """How long `reference_outputs` may take here, from a moment's measurement of the disk and of the processor.
    `pictures` and `tokens` (query vectors included) are those of all samples."""
    vision, parts = checkpoint.config.vision, checkpoint.parameters
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    language = parts["language_model"]
    operations = 2 * ((checkpoint.total_parameters - language) * patches * pictures + language * tokens)
    return reference_size(checkpoint) / _bytes_per_second(checkpoint) + operations / _operations_per_second()


def seconds_to_calibrate(checkpoint: AnyCheckpoint, precision: str, pictures: int, tokens: int) -> float:
    """How much longer a conversion takes with samples of so many pictures and tokens."""
    seconds = estimated_seconds(checkpoint, pictures, tokens)
    if precision == "int4":
        # Products of the matrices with the samples, there and back (`gptq.py`), and with themselves within blocks.
        rows, numbers = tokens, checkpoint.parameters["language_model"]
        if not numbers:  # of a retrieval model the picture encoder is what is quantised
            rows, numbers = pictures * checkpoint.config.vision.num_positions, checkpoint.parameters["vision"]
        operations = (4 * rows + 2 * BLOCK_SIZES["int4"]) * numbers
        seconds += _SLOWER * operations / _operations_per_second()
    return seconds


def _bytes_per_second(checkpoint: AnyCheckpoint) -> float:
    """Float32 bytes of weights that are read and turned as a linear layer wants them."""
    sizes = {name: one.nbytes for name, one in checkpoint.tensors.items() if len(one.shape) == 2}
    small = [name for name, size in sizes.items() if size <= _MEASURED] or [min(sizes, key=sizes.__getitem__)]
    weights, best = Weights(checkpoint), 0.0
    # The fastest of three: the first may wait for a sleeping disk or another program.
    for name in sorted(small, key=sizes.__getitem__)[-3:]:
        started = time.perf_counter()
        array = weights.read(name)
        np.ascontiguousarray(array.T)
        best = max(best, array.nbytes / max(time.perf_counter() - started, 1e-6))
    return best


def _operations_per_second() -> float:
    size, best = 512, 0.0
    matrix = np.ones((size, size), np.float32)
    for _ in range(4):
        started = time.perf_counter()
        matrix @ matrix
        best = max(best, 2 * size**3 / max(time.perf_counter() - started, 1e-6))
    return best
