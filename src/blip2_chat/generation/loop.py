"""Drives any engine through the protocol: greedy, sampling and beam search, batched, streamed, stoppable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ..checkpoint.config import ModelConfig
from ..engines.engine import Engine, Floats, State
from .beam import BeamSearch
from .settings import Decoding, choose, constrain, log_softmax

FinishReason = Literal["stop", "length", "interrupted"]
Ends = Callable[[Sequence[int]], bool]


def _never(tokens: Sequence[int]) -> bool:
    return False


@dataclass
class Generated:
    """One written sequence, without its stop token.

    `logprobs` has one entry per token chosen, the stop token's included; `score` is their sum divided by
    their number ** `length_penalty`, beam search's own measure.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    score: float = 0.0
    finish_reason: FinishReason = "interrupted"


def history_before(config: ModelConfig, prompt: Sequence[int]) -> list[int]:
    """What repetition rules look at before the first new token, as in transformers: for OPT the picture
    tokens and the prompt; for T5 the decoder's start token."""
    if config.text.decoder_start_token_id is not None:
        return [config.text.decoder_start_token_id]
    picture = [] if config.image_token_id is None else [config.image_token_id] * config.num_query_tokens
    return [*picture, *prompt]


class Writer:
    """Writes B sequences side by side, greedily or by drawing: one token per open row and `advance`.

    Rows that end leave the engine's batch at the next step. `num_answers` n > 1 makes n rows of each prompt,
    which is read once.
    """

    def __init__(
        self,
        engine: Engine,
        query_vectors: Floats,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        state: State | None = None,
    ) -> None:
        self._engine = engine
        self._decoding = decoding
        self._eos = engine.config.text.eos_token_ids
        self.state, self._logits = engine.prefill(query_vectors, prompts, state)
        copies = decoding.num_answers
        rows = [row for row in range(len(prompts)) for _ in range(copies)]
        if copies > 1:
            self.state.reorder(rows)
            self._logits = self._logits[rows]
        self._history = [history_before(engine.config, prompts[row]) for row in rows]
        self.results = [Generated() for _ in rows]
        seed = decoding.seed
        self._draws = [
            np.random.default_rng(None if seed is None else (seed, row)) for row in range(len(rows))
        ]
        self._fed = list(range(len(rows)))  # the result that each of the state's rows belongs to
        self._open = list(self._fed)

    @property
    def done(self) -> bool:
        return not self._open

    def advance(self) -> list[tuple[int, int]]:
        """One step -> (row, token) for every open row that did not just end at its stop token."""
        if self._open != self._fed:
            self.state.reorder([self._fed.index(row) for row in self._open])
            self._fed = list(self._open)
        if self.results[self._open[0]].token_ids:
            self._logits = self._engine.step(
                self.state, [self.results[row].token_ids[-1] for row in self._open]
            )
        chosen = [
            (row, self._pick(row, logits)) for row, logits in zip(self._open, self._logits, strict=True)
        ]
        written = [(row, token) for row, token in chosen if token not in self._eos]
        for row, token in chosen:
            result = self.results[row]
            if token in self._eos:
                self.end(row, "stop")
                continue
            result.token_ids.append(token)
            if len(result.token_ids) >= self._decoding.max_new_tokens:
                self.end(row, "length")
        return written

    def end(self, row: int, reason: FinishReason) -> None:
        """Closes a row: by its stop token, its length, or the caller's wish (a stop string)."""
        result = self.results[row]
        result.finish_reason = reason
        result.score = sum(result.logprobs) / max(len(result.logprobs), 1) ** self._decoding.length_penalty
        if row in self._open:
            self._open.remove(row)

    def _pick(self, row: int, logits: Floats) -> int:
        result = self.results[row]
        history = [*self._history[row], *result.token_ids]
        scores = constrain(logits, self._decoding, history, len(result.token_ids), self._eos)
        token = choose(scores, self._decoding, self._draws[row])
        result.logprobs.append(float(log_softmax(logits)[token]))
        return token


def generate(
    engine: Engine,
    query_vectors: Floats,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    ends: Ends = _never,
    state: State | None = None,
) -> tuple[list[list[Generated]], State]:
    """Writes answers to B prompts about B pictures -> per prompt `num_answers` of them, best first, and the
    state that a next prompt of the same pictures may go on from.

    `query_vectors` [B,Q,D]. `ends(tokens)` is asked after each token whether a stop string was written.
    """
    if decoding.num_beams > 1:
        return _search(engine, query_vectors, prompts, decoding, ends, state)
    writer = Writer(engine, query_vectors, prompts, decoding, state)
    while not writer.done:
        for row, _ in writer.advance():
            if ends(writer.results[row].token_ids):
                writer.end(row, "stop")
    n = decoding.num_answers
    groups = [writer.results[at : at + n] for at in range(0, len(writer.results), n)]
    return [sorted(group, key=lambda one: -one.score) for group in groups], writer.state


def _search(
    engine: Engine,
    query_vectors: Floats,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    ends: Ends,
    state: State | None,
) -> tuple[list[list[Generated]], State]:
    """Beam search for B prompts at once; the K beams of each share one reading of picture and prompt."""
    eos = engine.config.text.eos_token_ids
    beams = decoding.num_beams
    state, logits = engine.prefill(query_vectors, prompts, state)
    searches = [BeamSearch(decoding, history_before(engine.config, prompt), eos, ends) for prompt in prompts]
    rows = [row for row in range(len(prompts)) for _ in range(beams)]
    state.reorder(rows)
    logits = logits[rows]
    running = list(searches)
    while running:
        parents: list[int] = []
        tokens: list[int] = []
        still = []
        for place, search in enumerate(running):
            grown, new = search.advance(logits[place * beams : (place + 1) * beams])
            if not search.done:
                still.append(search)
                parents += [place * beams + parent for parent in grown]
                tokens += new
        running = still
        if running:
            state.reorder(parents)
            logits = engine.step(state, tokens)
    if len(prompts) == 1:
        # The first beam, cut back to the prompt, serves a next turn.
        state.reorder([0])
        state.truncate(0 if engine.config.text.decoder_start_token_id is not None else len(prompts[0]))
    return [ranked(search, decoding, eos) for search in searches], state


def ranked(search: BeamSearch, decoding: Decoding, eos: Sequence[int]) -> list[Generated]:
    """The answers of a search that is over, best first, without their stop tokens."""
    results = []
    for one in search.best[: decoding.num_answers]:
        tokens = list(one.tokens)
        reason: FinishReason = "stop" if search.stops(tokens) else "length"
        while tokens and tokens[-1] in eos:
            tokens.pop()
        results.append(Generated(tokens, list(one.logprobs), float(one.score), reason))
    return results
