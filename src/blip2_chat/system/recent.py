"""A bounded cache, of which the least recently used entries are dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Holds the entries used last, up to `limit` in all: entries, or what `size` counts of each. The entry used last
    stays even if it is larger than the limit alone. Not for several threads at once."""

    def __init__(self, limit: int, size: Callable[[Value], int] = lambda _: 1) -> None:
        self._limit = limit
        self._size = size
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._total = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """The value of a key, which is now the one used last; None if there is none."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Adds or replaces an entry, and drops the oldest ones beyond the limit."""
        if key in self._entries:
            self._total -= self._size(self._entries.pop(key))
        self._entries[key] = value
        self._total += self._size(value)
        while self._total > self._limit and len(self._entries) > 1:
            self._total -= self._size(self._entries.popitem(last=False)[1])

    def items(self) -> list[tuple[Key, Value]]:
        """A copy of all entries, the least recently used first."""
        return list(self._entries.items())
