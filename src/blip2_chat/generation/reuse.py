"""What a next answer need not compute again: pictures that were encoded, query vectors, KV caches of conversations.

Both are bounded in bytes, and the least recently used goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from ..engines.engine import Floats, State


def kept_under(digest: str, instruction: Sequence[int] = ()) -> str:
    """The key of what depends on a picture and, where the Q-Former reads it, on the instruction."""
    return f"{digest} {' '.join(map(str, instruction))}" if instruction else digest


class ArrayCache:
    """What was made of the pictures seen last, under `kept_under`'s keys.

    An encoded picture is the slow part of a first answer, and takes 0.5 MB as query vectors, 1.5 MB as features from
    which the query vectors of each instruction are made (5 MB at 364 pixels).
    """

    def __init__(self, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Floats] = OrderedDict()
        self._bytes = 0

    def get(self, digest: str) -> Floats | None:
        vectors = self._kept.get(digest)
        if vectors is not None:
            self._kept.move_to_end(digest)
        return vectors

    def put(self, digest: str, vectors: Floats) -> None:
        if digest not in self._kept:
            self._kept[digest] = vectors
            self._bytes += vectors.nbytes
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


class StateCache:
    """The states that conversations left behind, each of one row, found again by picture and common beginning.

    The prompt of a next turn begins with the one before, so a follow-up reads only its new tokens. A state is
    taken out while it is used: whoever breaks off simply does not put it back. Safe to use from several threads.
    """

    def __init__(self, max_bytes: int = 256 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: list[tuple[str, State]] = []  # least recently used first

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for _, state in self._kept)

    def take(self, digest: str, prompt: Sequence[int]) -> State | None:
        """The state of this picture with the longest common beginning.

        A state is cut back to what is common when it is used. One that shares less than half of its tokens is
        another conversation about the same picture: it stays, and what is common (the picture, at least) is copied.
        """
        best, longest = -1, -1
        with self._lock:
            for place, (key, state) in enumerate(self._kept):
                reusable = state.reusable(prompt) if key == digest else None
                if reusable is not None and reusable >= longest:
                    best, longest = place, reusable
            if best < 0:
                return None
            entry = self._kept.pop(best)
            if 2 * longest >= len(entry[1].tokens[0]):
                return entry[1]
            self._kept.append(entry)  # the last used
            return entry[1].take([0], longest)

    def put(self, digest: str, state: State) -> None:
        """Keeps a state of one row for the next turn. More than the bound is let go, the oldest first; a state
        larger than the bound alone is not kept."""
        if state.nbytes > self._max_bytes:
            return
        with self._lock:
            self._kept.append((digest, state))
            while self.nbytes > self._max_bytes:
                self._kept.pop(0)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
