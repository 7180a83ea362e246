"""What later answers reuse: encoded pictures, query vectors, and the KV caches of conversations.

Both are bounded in bytes, and the least recently used goes first.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..engines.engine import Floats, State
from ..system.recent import Recent


def kept_under(digest: str, instruction: Sequence[int] = ()) -> str:
    """The key of what depends on a picture and, where the Q-Former reads it, on the instruction."""
    return f"{digest} {' '.join(map(str, instruction))}" if instruction else digest


def array_cache(max_bytes: int = 64 * 1024 * 1024) -> Recent[str, Floats]:
    """A cache of what was computed from the pictures seen last, under `kept_under`'s keys.

    Encoding the picture is the slow part of a first answer. The result takes 0.5 MB as query vectors, or 1.5 MB as
    the features from which the query vectors of each instruction are computed (5 MB at 364 pixels).
    """
    return Recent(max_bytes, lambda array: array.nbytes)


class StateCache:
    """The states that conversations left behind, each of one row, found again by picture and common beginning.

    The prompt of a next turn begins with the one before, so a follow-up reads only its new tokens. A state is
    taken out while it is used, and after an interruption simply not put back. Safe to use from several threads.
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
        """Keeps a state of one row for the next turn. The oldest states beyond the bound are dropped; a state
        larger than the bound is not kept at all."""
        if state.nbytes > self._max_bytes:
            return
        with self._lock:
            self._kept.append((digest, state))
            while self.nbytes > self._max_bytes:
                self._kept.pop(0)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
