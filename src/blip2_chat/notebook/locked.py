"""An engine used from several threads: a widget answers in its own thread while cells use the same model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ..engines.engine import Engine, Floats, State


class LockedEngine:
    """An engine whose calls are serialised. Conversations may interleave between two calls, because each has
    its own state."""

    def __init__(self, engine: Engine) -> None:
        self.inner = engine
        self.config = engine.config
        self.name = engine.name
        self.precision = engine.precision
        self.device = engine.device
        self._lock = threading.Lock()

    @classmethod
    def around(cls, engine: Engine) -> LockedEngine:
        return engine if isinstance(engine, cls) else cls(engine)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)  # attributes of a particular engine

    def encode_image(self, pixels: Floats) -> Floats:
        with self._lock:
            return self.inner.encode_image(pixels)

    def query(self, pictures: Floats, instructions: Sequence[Sequence[int]]) -> Floats:
        with self._lock:
            return self.inner.query(pictures, instructions)

    def prefill(
        self, query_vectors: Floats, token_ids: Sequence[Sequence[int]], state: State | None = None
    ) -> tuple[State, Floats]:
        with self._lock:
            return self.inner.prefill(query_vectors, token_ids, state)

    def step(self, state: State, token_ids: Sequence[int]) -> Floats:
        with self._lock:
            return self.inner.step(state, token_ids)

    def close(self) -> None:
        with self._lock:
            self.inner.close()
