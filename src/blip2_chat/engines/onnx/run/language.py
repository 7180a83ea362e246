"""The two language models at run time: what goes into their graphs, and the state between calls."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ....checkpoint.config import ModelConfig
from ....checkpoint.text_config import EncoderDecoder
from ....errors import GenerationError
from ...engine import Floats, State, common_prefix
from ..heads import cached_heads, head_size
from .cache import KVCache
from .runtime import Array, Binding, Runner

_sources = itertools.count()


class LanguageModel(Protocol):
    def prefill(
        self, query_vectors: Floats, token_ids: Sequence[Sequence[int]], state: State | None
    ) -> tuple[State, Floats]: ...

    def step(self, state: State, token_ids: Sequence[int]) -> Floats: ...


class OnnxState:
    """The rows of a language model: their tokens, their cache, and for T5 its encoder's output for the prompt.

    `head` is the number of cached positions before the first token: the query vectors, or T5's start token.
    """

    def __init__(self, cache: KVCache, head: int, cross: CrossCache | None = None) -> None:
        self.cache = cache
        self.head = head
        self.cross = cross
        self.rows: list[list[int]] = [[] for _ in range(cache.rows)]
        # Rows of one source have the same picture (and, for T5, the same prompt): equal tokens, equal cache.
        self._sources = [next(_sources) for _ in range(cache.rows)]
        # The graph's I/O binding to the buffers; None after they moved.
        self.binding: Binding | None = None

    @property
    def tokens(self) -> list[list[int]]:
        return self.rows

    @property
    def nbytes(self) -> int:
        return self.cache.nbytes + (self.cross.nbytes if self.cross else 0)

    def reusable(self, prompt: Sequence[int]) -> int | None:
        if self.cross is None:
            return common_prefix(self.rows[0], prompt)
        return len(prompt) if self.cross.prompts[0] == list(prompt) else None

    def reorder(self, rows: Sequence[int]) -> None:
        rows = [int(row) for row in rows]
        moved = self.cache.reorder(rows, self._shared(rows))
        sources = [self._sources[row] for row in rows]
        if self.cross and (moved or sources != self._sources):
            self.cross = self.cross.take(rows)
            moved = True
        self._sources = sources
        self.rows = [list(self.rows[row]) for row in rows]
        if moved:
            self.binding = None

    def take(self, rows: Sequence[int], length: int | None = None) -> OnnxState:
        rows = [int(row) for row in rows]
        cache = self.cache.take(rows, None if length is None else self.head + length)
        taken = OnnxState(cache, self.head, self.cross.take(rows) if self.cross else None)
        taken.rows = [self.rows[row][:length] for row in rows]
        taken._sources = [self._sources[row] for row in rows]
        return taken

    def truncate(self, length: int) -> None:
        self.rows = [row[:length] for row in self.rows]
        self.cache.lengths[:] = [self.head + len(row) for row in self.rows]

    def append(self, other: State) -> None:
        if not isinstance(other, OnnxState) or other.head != self.head:
            raise ValueError("states of different engines cannot be joined")
        self.cache.append(other.cache)
        if self.cross and other.cross:
            self.cross = self.cross.joined(other.cross)
        self.rows += [list(row) for row in other.rows]
        self._sources += other._sources
        self.binding = None

    def reserve(self, capacity: int) -> None:
        """Makes room for rows of `capacity` cached positions."""
        if self.cache.reserve(capacity):
            self.binding = None

    def extend(self, token_ids: Sequence[int]) -> None:
        """Records one more token per row, whose keys and values are already in the cache."""
        for row, token in zip(self.rows, token_ids, strict=True):
            row.append(int(token))
        self.cache.lengths += 1

    def _shared(self, rows: Sequence[int]) -> int:
        """How many first cached positions no row changes when it becomes `rows[i]`."""
        if len(rows) != len(self.rows):
            return 0
        lengths = [int(self.cache.lengths.max(initial=0))]
        for new, old in enumerate(rows):
            if new == old:
                continue
            if self._sources[new] != self._sources[old]:
                return 0
            lengths.append(self.head + common_prefix(self.rows[new], self.rows[old]))
        return min(lengths)


class CrossCache:
    """T5's cross-attention: keys and values [2 * layers, B, heads, T, d_kv], tokens per row [B]."""

    def __init__(self, data: Floats, lengths: Array, prompts: list[list[int]]) -> None:
        self.data = data
        self.lengths = lengths
        self.prompts = prompts

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def take(self, rows: Sequence[int]) -> CrossCache:
        rows = list(rows)
        lengths = self.lengths[rows]
        data = self.data.take(rows, axis=1)[:, :, :, : lengths.max(initial=0)]
        return CrossCache(np.ascontiguousarray(data), lengths, [self.prompts[row] for row in rows])

    def joined(self, other: CrossCache) -> CrossCache:
        longest = max(self.data.shape[3], other.data.shape[3])
        parts = [
            np.pad(part, [(0, 0)] * 3 + [(0, longest - part.shape[3]), (0, 0)])
            for part in (self.data, other.data)
        ]
        lengths = np.concatenate([self.lengths, other.lengths])
        return CrossCache(np.concatenate(parts, axis=1), lengths, self.prompts + other.prompts)


class DecoderModel:
    """A decoder-only model: query vectors and prompt go through one graph."""

    def __init__(self, config: ModelConfig, runner: Runner, table: Array) -> None:
        assert not isinstance(config.text, EncoderDecoder)
        self.config, self.text = config, config.text
        self._runner = runner
        self._table = table

    def prefill(
        self, query_vectors: Floats, token_ids: Sequence[Sequence[int]], state: State | None = None
    ) -> tuple[State, Floats]:
        prompts = _checked(token_ids, len(query_vectors))
        q, longest = self.config.num_query_tokens, max(map(len, prompts))
        self._check_length(q + longest)
        if state is None:
            return self._prefill_new(query_vectors, prompts)
        state = _same(state, len(prompts))
        # The last token is always computed, because its logits are needed.
        keep = [
            min(common_prefix(old, new), len(new) - 1) for old, new in zip(state.tokens, prompts, strict=True)
        ]
        logits = np.empty((len(prompts), self.text.vocab_size), np.float32)
        state.reserve(q + longest)
        state.cache.lengths[:] = [q + kept for kept in keep]
        rest = [prompt[kept:] for prompt, kept in zip(prompts, keep, strict=True)]
        if max(map(len, rest)) == 1:
            self._run(state, self._embed([row[0] for row in rest])[:, None], logits, slice(None))
        else:
            # GroupQueryAttention accepts several new tokens after cached ones for one row at a time only.
            for i, new in enumerate(rest):
                self._run(state, self._embed(new)[None], logits[i : i + 1], slice(i, i + 1))
        state.cache.lengths[:] = [q + len(prompt) for prompt in prompts]
        state.rows = [list(prompt) for prompt in prompts]
        return state, logits

    def _prefill_new(self, query_vectors: Floats, prompts: list[list[int]]) -> tuple[State, Floats]:
        t, q, b = self.text, self.config.num_query_tokens, len(prompts)
        longest = max(map(len, prompts))
        heads, size = cached_heads(t)
        cache = KVCache.empty(t.num_hidden_layers, b, heads, size, q + longest + 32)
        state = OnnxState(cache, head=q)
        x = np.zeros((b, q + longest, t.hidden_size), np.float32)
        x[:, :q] = query_vectors
        for i, prompt in enumerate(prompts):
            x[i, q : q + len(prompt)] = self._embed(prompt)
        logits = np.empty((b, t.vocab_size), np.float32)
        self._run(state, x, logits, slice(None), last=[q + len(prompt) - 1 for prompt in prompts])
        cache.lengths[:] = [q + len(prompt) for prompt in prompts]
        state.rows = [list(prompt) for prompt in prompts]
        return state, logits

    def step(self, state: State, token_ids: Sequence[int]) -> Floats:
        state = _same(state, len(token_ids))
        needed = int(state.cache.lengths.max()) + 1
        self._check_length(needed)
        state.reserve(needed)
        logits = np.empty((len(token_ids), self.text.vocab_size), np.float32)
        self._run(state, self._embed(token_ids)[:, None], logits, slice(None))
        state.extend(token_ids)
        return logits

    def _run(
        self, state: OnnxState, x: Floats, logits: Floats, rows: slice, last: Sequence[int] | None = None
    ) -> None:
        """Runs x [b, S, D] behind the cache of the state's `rows`; `last`: whose logits (default: at S - 1)."""
        b, s, _ = x.shape
        start = state.cache.lengths[rows]
        positions = start[:, None] + np.arange(s)[None]
        inputs = {
            "embeddings": x,
            # Positions of padding may exceed the table.
            "positions": np.minimum(positions, self.text.max_position_embeddings - 1).astype(np.int64),
            "lengths": (start + (s - 1)).astype(np.int32),
            "total": np.array(start.max() + s, np.int32),
            "rows": np.arange(b) * s + (np.asarray(last) if last is not None else s - 1),
        }
        if rows != slice(None):
            self._runner.bind(*_bound(state.cache, rows)).run(inputs, {"logits": logits})
            return
        if state.binding is None:
            state.binding = self._runner.bind(*_bound(state.cache, rows))
        state.binding.run(inputs, {"logits": logits})

    def _embed(self, tokens: Sequence[int]) -> Floats:
        return self._table[list(tokens)].astype(np.float32)

    def _check_length(self, length: int) -> None:
        if length > self.text.max_position_embeddings:
            raise GenerationError(
                f"picture, prompt and answer are {length} tokens; the model has {self.text.max_position_embeddings} "
                "positions: shorten the prompt or the conversation"
            )


class T5Model:
    """The encoder-decoder model: the prompt is read once, the decoder adds token by token."""

    def __init__(self, config: ModelConfig, encoder: Runner, decoder: Runner, table: Array) -> None:
        assert isinstance(config.text, EncoderDecoder)
        self.config, self.text = config, config.text
        self._encoder, self._decoder = encoder, decoder
        self._table = table

    def prefill(
        self, query_vectors: Floats, token_ids: Sequence[Sequence[int]], state: State | None = None
    ) -> tuple[State, Floats]:
        prompts = _checked(token_ids, len(query_vectors))
        known = _same(state, len(prompts)) if state is not None else None
        if known is None or known.cross is None or known.cross.prompts != prompts:
            known = self._read(query_vectors, prompts)
        known.rows = [[] for _ in prompts]
        known.cache.lengths[:] = 0
        logits = self._run(known, [self.text.decoder_start_token_id] * len(prompts))
        known.cache.lengths += 1
        return known, logits

    def step(self, state: State, token_ids: Sequence[int]) -> Floats:
        state = _same(state, len(token_ids))
        logits = self._run(state, token_ids)
        state.extend(token_ids)
        return logits

    def _read(self, query_vectors: Floats, prompts: list[list[int]]) -> OnnxState:
        """Runs the encoder."""
        t, q, b = self.text, self.config.num_query_tokens, len(prompts)
        size = q + max(map(len, prompts))
        x = np.zeros((b, size, t.d_model), np.float32)
        x[:, :q] = query_vectors
        for i, prompt in enumerate(prompts):
            x[i, q : q + len(prompt)] = self._table[prompt]
        lengths = np.array([q + len(prompt) for prompt in prompts], np.int64)
        data = np.empty((2 * t.num_decoder_layers, b, t.num_heads, size, t.d_kv), np.float32)
        self._encoder.run({"embeddings": x, "lengths": lengths}, _named("cross", data))
        cache = KVCache.empty(t.num_decoder_layers, b, t.num_heads, head_size(t.d_kv), 32)
        return OnnxState(cache, head=1, cross=CrossCache(data, lengths, prompts))

    def _run(self, state: OnnxState, token_ids: Sequence[int]) -> Floats:
        lengths = state.cache.lengths
        state.reserve(int(lengths.max()) + 1)
        cross = state.cross
        assert cross is not None
        if state.binding is None:
            inputs, outputs = _bound(state.cache, slice(None))
            inputs |= _named("cross", cross.data) | {"prompt_lengths": cross.lengths}
            state.binding = self._decoder.bind(inputs, outputs)
        logits = np.empty((len(token_ids), self.text.vocab_size), np.float32)
        inputs = {
            "embeddings": self._table[list(token_ids)].astype(np.float32)[:, None],
            "lengths": lengths.astype(np.int32),
            "total": np.array(lengths.max() + 1, np.int32),
        }
        state.binding.run(inputs, {"logits": logits})
        return logits


def _named(prefix: str, data: Floats) -> dict[str, Array]:
    """`data` [2 * layers, ...] under the graph's names: PREFIX_key_0, PREFIX_value_0, PREFIX_key_1, ..."""
    return {f"{prefix}_{('key', 'value')[i % 2]}_{i // 2}": data[i] for i in range(len(data))}


def _bound(cache: KVCache, rows: slice) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and outputs that share the cache's buffer."""
    data = cache.data[:, rows]
    return _named("past", data), _named("present", data)


def _checked(token_ids: Sequence[Sequence[int]], rows: int) -> list[list[int]]:
    prompts = [[int(token) for token in row] for row in token_ids]
    if len(prompts) != rows or not rows:
        raise ValueError(f"{rows} pictures and {len(prompts)} prompts: each row needs one of both")
    if not all(prompts):
        raise ValueError("each prompt needs at least one token")
    return prompts


def _same(state: State, rows: int) -> OnnxState:
    if not isinstance(state, OnnxState):
        raise ValueError("the state belongs to another engine")
    if state.cache.rows != rows:
        raise ValueError(f"the state has {state.cache.rows} rows, not {rows}")
    return state
