"""The torch engine's state of the sequences it has read: transformers' KV caches, and a mask of their slots.

Rows of unequal length stand right-aligned in one cache, with a mask over its slots. On several GPUs each layer's
cache is on its layer's GPU, so whatever selects from one goes there first.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from ..engine import State, common_prefix


def cache_name(language_model: Any) -> str:
    """The keyword by which `language_model` takes a cache: transformers renamed `past_key_values` in 5.24."""
    asked = inspect.signature(type(language_model).forward).parameters
    return "cache" if "cache" in asked else "past_key_values"


class TorchState:
    """B rows in one KV cache; see `engine.State`."""

    def __init__(
        self, picture_slots: int, cache: DynamicCache, mask: Tensor, tokens: list[list[int]]
    ) -> None:
        self.picture_slots = picture_slots  # slots before each row's first token: pictures, or a start token
        self.cache = cache
        self.mask = mask  # bool [B, slots]
        self._tokens = tokens
        # Encoder-decoder only: what the decoder looks at, and the prompts it came from.
        self.encoded: Tensor | None = None  # [B, S, D]
        self.encoded_mask: Tensor | None = None  # bool [B, S]
        self.cross: DynamicCache | None = None
        self.prompts: list[list[int]] = []

    @property
    def tokens(self) -> list[list[int]]:
        return self._tokens

    @property
    def nbytes(self) -> int:
        caches = [self.cache, *([self.cross] if self.cross is not None else [])]
        tensors = [half for one in caches for layer in one.layers for half in (layer.keys, layer.values)]
        return sum(half.numel() * half.element_size() for half in tensors if half is not None)

    def reusable(self, prompt: Sequence[int]) -> int | None:
        if self.encoded is None:
            return common_prefix(self._tokens[0], prompt)
        return len(prompt) if self.prompts[0] == list(prompt) else None

    def reorder(self, rows: Sequence[int]) -> None:
        index = torch.as_tensor(list(rows), device=self.mask.device)
        _select(self.cache, index)
        self.mask = self.mask.index_select(0, index)
        self._tokens = [list(self._tokens[row]) for row in rows]
        if self.encoded is not None and self.encoded_mask is not None:
            self.encoded, self.encoded_mask = self.encoded[index], self.encoded_mask[index]
            self.prompts = [self.prompts[row] for row in rows]
        if self.cross is not None:
            _select(self.cross, index)

    def truncate(self, length: int) -> None:
        keep = self.mask & (self.mask.cumsum(1) <= self.picture_slots + length)
        used = self.picture_slots + max(min(len(row), length) for row in self._tokens)
        # Each row's kept slots, in their order, moved to the right end: T5 measures distances in slots.
        order = keep.int().argsort(dim=1, stable=True).narrow(1, keep.shape[1] - used, used)
        self.mask = keep.gather(1, order)
        for layer in self.cache.layers:
            index = order.to(layer.keys.device).unsqueeze(1).unsqueeze(3)
            index = index.expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys, layer.values = layer.keys.gather(2, index), layer.values.gather(2, index)
        self._tokens = [row[:length] for row in self._tokens]

    def append(self, other: State) -> None:
        other = cast(TorchState, other)
        slots = max(self.mask.shape[1], other.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.keys = torch.cat([left_padded(mine.keys, slots), left_padded(theirs.keys, slots)])
            mine.values = torch.cat([left_padded(mine.values, slots), left_padded(theirs.values, slots)])
        self.mask = torch.cat([left_padded(self.mask, slots, 1), left_padded(other.mask, slots, 1)])
        self._tokens = [*self._tokens, *other._tokens]
        if self.encoded is not None and other.encoded is not None:
            self._append_encoded(other)

    def take(self, rows: Sequence[int], length: int | None = None) -> TorchState:
        # Nothing is ever written into the cache's tensors, so a shallow copy may be cut as it pleases.
        taken = copy.copy(self)
        taken.cache, taken.cross = _shallow(self.cache), self.cross and _shallow(self.cross)
        taken.reorder(rows)
        # The slots that only longer rows needed go, too.
        taken.truncate(max(map(len, taken.tokens)) if length is None else length)
        return taken

    def _append_encoded(self, other: TorchState) -> None:
        assert self.encoded is not None and self.encoded_mask is not None
        assert other.encoded is not None and other.encoded_mask is not None
        size = max(self.encoded.shape[1], other.encoded.shape[1])
        both = ((self.encoded, other.encoded), (self.encoded_mask, other.encoded_mask))
        self.encoded, self.encoded_mask = (
            torch.cat([left_padded(one, size, 1) for one in pair]) for pair in both
        )
        if self.cross is not None and other.cross is not None:
            for mine, theirs in zip(self.cross.layers, other.cross.layers, strict=True):
                mine.keys = torch.cat([left_padded(mine.keys, size), left_padded(theirs.keys, size)])
                mine.values = torch.cat([left_padded(mine.values, size), left_padded(theirs.values, size)])
        self.prompts = [*self.prompts, *other.prompts]


def _select(cache: DynamicCache, rows: Tensor) -> None:
    for layer in cache.layers:
        if layer.get_seq_length():
            at = rows.to(layer.keys.device)
            layer.keys, layer.values = layer.keys.index_select(0, at), layer.values.index_select(0, at)


def _shallow(cache: DynamicCache) -> DynamicCache:
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


def left_padded(tensor: Tensor, size: int, axis: int = -2) -> Tensor:
    """Zeros before the content along `axis` until it is `size` long."""
    shape = list(tensor.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([tensor.new_zeros(shape), tensor], dim=axis) if shape[axis] else tensor
