"""One row's steps as one CUDA graph: every kernel of a step launched at once, not one after the other from Python.

A step of one row does little work per kernel: on a fast GPU it waits for Python to launch a thousand of them. A graph
repeats what was once captured, on the same memory, so nothing may move: the KV cache has all its slots from the
start, and a mask says which count.

Off unless asked for (`TorchEngine.use_graphs`), and checked: the first replays are compared with ordinary steps,
which also do whatever a graph cannot.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .state import TorchState, cache_name

# Slots of the fixed cache: a picture and a long conversation. Each step attends to all of them, so more would cost.
SLOTS = 512
# How many replays are compared with an ordinary step. (The captured step itself would agree even if the graph
# had recorded stale inputs.)
_CHECKED = 4
# Root of the mean squared difference that other kernels may make in 16 bits, as a share of the logits. A graph that
# goes on from stale inputs is off by about 1.
_ALLOWED = 0.05

Compute = Callable[[], Tensor]
Capture = Callable[[Compute], Compute]


class FixedCache:
    """Keys and values of one row, of fixed size at a fixed place: what transformers' decoder asks of a cache."""

    def __init__(self, like: TorchState, slots: int) -> None:
        def room(content: Tensor) -> Tensor:
            return content.new_zeros((1, content.shape[1], slots, content.shape[3]))

        self.keys = [room(layer.keys) for layer in like.cache.layers]
        self.values = [room(layer.values) for layer in like.cache.layers]
        self.slot = torch.zeros(1, dtype=torch.long, device=self.keys[0].device)  # the next to be written

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *others: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        self.keys[layer].index_copy_(2, self.slot, keys)
        self.values[layer].index_copy_(2, self.slot, values)
        return self.keys[layer], self.values[layer]

    def get_seq_length(self, layer: int = 0) -> int:
        return 0  # mask and positions are given, so nothing is computed from it


class StepGraph:
    """Steps of states of one row through a decoder-only `language_model` that is whole on one device.

    `plain(state, token)` is the usual step, which a graph must agree with. `capture` makes of a computation
    something that repeats it on the same memory; tests give one that works without a GPU.
    """

    def __init__(
        self,
        language_model: Any,
        plain: Callable[[TorchState, int], Tensor],
        capture: Capture | None = None,
        slots: int = SLOTS,
    ) -> None:
        self._language_model = language_model
        self._cache_name = cache_name(language_model)
        self._plain = plain
        self._capture = capture or _cuda_graph
        self._slots = slots
        self._cache: FixedCache | None = None
        self._replay: Compute | None = None
        self._owner: Callable[[], TorchState | None] = lambda: None
        self._unchecked = _CHECKED
        self.off = ""  # why graphs are no longer used, if they are not

    def step(self, state: TorchState, token: int) -> Tensor | None:
        """Logits [1,V] after one more token; None, with the state as it was, where the plain step has to do it."""
        used = state.mask.shape[1]
        if self.off or len(state.tokens) != 1 or used >= self._slots:
            return None
        try:
            if not self._holds(state):
                self._take_over(state)
            logits = self._run(used, state.picture_slots + len(state.tokens[0]), token)
            if self._unchecked:
                self._check(logits, self._plain(state.take([0]), token))
        except RuntimeError as error:
            self.off = " ".join(str(error).split())[:200]
            logging.getLogger(__name__).warning("CUDA graphs are not used: %s", self.off)
            self._give_back()
            return None
        self._show(state, used + 1)
        state.mask = torch.cat([state.mask, state.mask.new_ones(1, 1)], dim=1)
        state.tokens[0].append(token)
        return logits.clone()  # the next replay writes over them

    def _run(self, used: int, position: int, token: int) -> Tensor:
        assert self._cache is not None
        self._token.fill_(token)
        self._position.fill_(position)
        self._cache.slot.fill_(used)
        self._mask[..., used] = 0
        if self._replay is None:
            self._replay = self._capture(self._compute)
        return self._replay()

    def _compute(self) -> Tensor:
        """What is captured: reads and writes this object's tensors, and asks Python for no number."""
        logits: Tensor = self._language_model(
            inputs_embeds=self._language_model.get_input_embeddings()(self._token),
            attention_mask=self._mask,
            position_ids=self._position,
            use_cache=True,
            **{self._cache_name: self._cache},
        ).logits
        return logits[:, -1]

    def _check(self, mine: Tensor, plain: Tensor) -> None:
        self._unchecked -= 1
        off = (mine.float() - plain.float()).square().mean() / plain.float().square().mean()
        if not bool(off.sqrt() <= _ALLOWED):  # nan is not
            raise RuntimeError(f"a replayed step is off by {float(off.sqrt()):.2g}")

    def _holds(self, state: TorchState) -> bool:
        """Whether the fixed cache has this state's keys and values. Whatever else is done to a state gives it
        tensors of its own."""
        first = state.cache.layers[0].keys
        return (
            self._cache is not None
            and self._owner() is state
            and first.data_ptr() == self._cache.keys[0].data_ptr()
            and first.shape[2] == state.mask.shape[1]
        )

    def _take_over(self, state: TorchState) -> None:
        self._give_back()
        if self._cache is None:
            self._cache = FixedCache(state, self._slots)
            device, dtype = self._cache.slot.device, state.cache.layers[0].keys.dtype
            self._token = torch.zeros(1, 1, dtype=torch.long, device=device)
            self._position = torch.zeros(1, 1, dtype=torch.long, device=device)
            self._mask = torch.zeros(1, 1, 1, self._slots, dtype=dtype, device=device)
        used = state.mask.shape[1]
        for layer, keys, values in zip(state.cache.layers, self._cache.keys, self._cache.values, strict=True):
            keys[:, :, :used], values[:, :, :used] = layer.keys, layer.values
        never = torch.finfo(self._mask.dtype).min
        self._mask.fill_(never)
        self._mask[..., :used].masked_fill_(state.mask, 0)
        self._owner = weakref.ref(state)

    def _give_back(self) -> None:
        """Gives tensors of its own to the state that uses the fixed cache."""
        owner = self._owner()
        if owner is not None and self._holds(owner):
            for layer in owner.cache.layers:
                layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
        self._owner = lambda: None

    def _show(self, state: TorchState, used: int) -> None:
        """Makes the state's cache a view of the fixed one; nothing is copied."""
        assert self._cache is not None
        for layer, keys, values in zip(state.cache.layers, self._cache.keys, self._cache.values, strict=True):
            layer.keys, layer.values = keys[:, :, :used], values[:, :, :used]


def _cuda_graph(compute: Compute) -> Compute:
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        # Warm-up: kernels are chosen and memory is allocated; the same slot is written again.
        for _ in range(2):
            compute()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the GPU meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = compute()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
