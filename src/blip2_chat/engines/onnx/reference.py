"""A checkpoint's own float32 run, layer by layer: what quantised models are calibrated by and compared with.

The graphs are the ones that `convert` writes for fp32, run piece by piece (`streamed.py`), so the memory is that of a
few layers, whatever the checkpoint's size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...checkpoint.config import ModelConfig, TextConfig
from ...checkpoint.text_config import DecoderOnly, EncoderDecoder
from ..engine import Floats
from .graph.builder import Graph
from .graph.tensors import Array, Tensor, Value
from .heads import cached_heads, head_size
from .streamed import StoredWeights, Watch, run_streamed

Read = Callable[[Tensor], Floats] | StoredWeights
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Sample:
    """A picture, float32 pixels [1, 3, H, W]; a prompt's token ids, and those of an answer to it (may be empty).
    `instruction`: the prompt in the Q-Former's ids, where it reads it."""

    pixels: Floats
    prompt: list[int]
    answer: list[int]
    instruction: tuple[int, ...] = ()


def answer(
    graphs: Sequence[Graph], embeddings: Tensor, config: ModelConfig, read: Read, samples: Sequence[Sample],
    watches: Mapping[str, Watch] | None = None, progress: Progress = lambda nbytes: None,
) -> tuple[list[Floats], list[Floats]]:  # fmt: skip
    """(Query vectors [1, Q, D] per sample, logits [1 + answer, V] after the prompt and after each answer token)."""
    named, watches = {graph.name: graph for graph in graphs}, watches or {}
    text = config.text
    vectors = _encode(named["picture"], read, samples, watches.get("picture"), progress)
    if config.reads_instruction:
        vectors = _query(named["query"], config, read, vectors, samples, watches.get("query"), progress)
    table = _rows(read(embeddings), text, samples)
    speaking, watch = named["language"], watches.get("language")
    if isinstance(text, EncoderDecoder):
        pair = (watches.get("prompt"), watch)
        return vectors, _speak_t5(
            named["prompt"], speaking, text, read, table, vectors, samples, pair, progress
        )
    return vectors, _speak_decoder(speaking, text, read, table, vectors, samples, watch, progress)


def _rows(table: Array, text: TextConfig, samples: Sequence[Sample]) -> dict[int, Floats]:
    """The embeddings [D] of the tokens that occur: the whole table is half a gigabyte."""
    used = {token for sample in samples for token in (*sample.prompt, *sample.answer)}
    if text.decoder_start_token_id is not None:
        used.add(text.decoder_start_token_id)
    return {token: np.array(table[token], np.float32) for token in used}


class LinearInputs:
    """Collects the inputs of a graph's linear layers, and passes them on after each piece."""

    def __init__(self, graph: Graph, wanted: Collection[str], receive: Callable[[str, Floats], None]) -> None:
        """`receive` is called with the name of each weight that is `wanted` and its layer's inputs [T, K]."""
        self._receive = receive
        self._readers: dict[Value, list[str]] = {}
        self._rows: dict[Value, list[Floats]] = {}
        for linear in graph.linears:
            name = graph.recipes[linear.weight].outputs[0].name
            if name in wanted:
                self._readers.setdefault(linear.input, []).append(name)

    @property
    def taps(self) -> Collection[Value]:
        return self._readers.keys()

    def __call__(self, sample: int, value: Value, array: Array) -> None:
        self._rows.setdefault(value, []).append(array.reshape(-1, array.shape[-1]))

    def piece_done(self) -> None:
        while self._rows:
            value, rows = self._rows.popitem()
            inputs = np.concatenate(rows)
            for name in self._readers[value]:
                self._receive(name, inputs)


def _encode(
    graph: Graph, read: Read, samples: Sequence[Sample], watch: Watch | None, progress: Progress
) -> list[Floats]:
    """The picture graph -> its output per sample, the query vectors [1, Q, D] or the features that they are made of;
    a picture of several samples is read once."""
    places: dict[int, int] = {}
    feeds: list[dict[Value, Array]] = []
    for sample in samples:
        if id(sample.pixels) not in places:
            places[id(sample.pixels)] = len(feeds)
            feeds.append({"pixels": sample.pixels})
    (name,) = graph.outputs
    results = run_streamed(graph, read, feeds, watch, progress=progress)
    return [results[places[id(sample.pixels)]][name] for sample in samples]


def _query(
    graph: Graph, config: ModelConfig, read: Read, features: Sequence[Floats], samples: Sequence[Sample],
    watch: Watch | None, progress: Progress,
) -> list[Floats]:  # fmt: skip
    """The graph of a Q-Former that reads instructions -> query vectors [1, Q, D] per sample."""
    feeds: list[dict[Value, Array]] = [
        {
            "features": picture,
            "instruction": np.array([sample.instruction], np.int64),
            "mask": np.ones((1, config.num_query_tokens + len(sample.instruction)), np.int32),
        }
        for sample, picture in zip(samples, features, strict=True)
    ]
    results = run_streamed(graph, read, feeds, watch, progress=progress)
    return [result["query_vectors"] for result in results]


def _speak_decoder(
    graph: Graph, text: DecoderOnly, read: Read, table: Mapping[int, Floats], vectors: Sequence[Floats],
    samples: Sequence[Sample], watch: Watch | None, progress: Progress,
) -> list[Floats]:  # fmt: skip
    """The decoder-only graph -> per sample the logits [1 + answer, V] after the prompt and each answer token."""
    heads, size = cached_heads(text)
    empty = np.zeros((1, heads, 0, size), np.float32)
    past = {f"past_{kind}_{i}": empty for i in range(text.num_hidden_layers) for kind in ("key", "value")}
    feeds = []
    for sample, picture in zip(samples, vectors, strict=True):
        words = np.stack([table[token] for token in (*sample.prompt, *sample.answer)])
        x = np.concatenate([picture, words[None]], axis=1)
        length = x.shape[1]
        # Logits where they are asked for; to calibrate, the head's inputs everywhere.
        first = 0 if watch else length - 1 - len(sample.answer)
        feeds.append(
            {
                "embeddings": x,
                "positions": np.arange(length)[None],
                "lengths": np.array([length - 1], np.int32),
                "total": np.array(length, np.int32),
                "rows": np.arange(first, length),
                **past,
            }
        )
    results = run_streamed(graph, read, feeds, watch, carried=_presents(past), progress=progress)
    return [
        result["logits"][len(result["logits"]) - len(sample.answer) - 1 :]
        for result, sample in zip(results, samples, strict=True)
    ]


def _speak_t5(
    encoder: Graph, decoder: Graph, text: EncoderDecoder, read: Read, table: Mapping[int, Floats],
    vectors: Sequence[Floats], samples: Sequence[Sample], watches: tuple[Watch | None, Watch | None],
    progress: Progress,
) -> list[Floats]:  # fmt: skip
    """Encoder and decoder graphs -> per sample the logits [1 + answer, V] after the start and each answer token."""
    feeds = []
    for sample, picture in zip(samples, vectors, strict=True):
        x = np.concatenate([picture, np.stack([table[token] for token in sample.prompt])[None]], axis=1)
        feeds.append({"embeddings": x, "lengths": np.array([x.shape[1]])})
    crosses = run_streamed(encoder, read, feeds, watches[0], progress=progress)
    empty = np.zeros((1, text.num_heads, 0, head_size(text.d_kv)), np.float32)
    past = {f"past_{kind}_{i}": empty for i in range(text.num_decoder_layers) for kind in ("key", "value")}
    steps: list[dict[Value, Array]] = []
    follows = []
    for sample, cross, feed in zip(samples, crosses, feeds, strict=True):
        for at, token in enumerate([text.decoder_start_token_id, *sample.answer]):
            steps.append(
                {
                    "embeddings": table[token][None, None],
                    "lengths": np.array([at], np.int32),
                    "total": np.array(at + 1, np.int32),
                    "prompt_lengths": feed["lengths"],
                    **cross,
                    **past,
                }
            )
            follows.append(at > 0)
    results = run_streamed(
        decoder, read, steps, watches[1], carried=_presents(past), follows=follows, progress=progress
    )
    logits = iter(result["logits"] for result in results)
    return [np.concatenate([next(logits) for _ in range(1 + len(sample.answer))]) for sample in samples]


def _presents(past: dict[Value, Array]) -> dict[Value, Value]:
    return {name.replace("past_", "present_"): name for name in past}
