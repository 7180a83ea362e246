"""The text that grows out of tokens while they come: shown piece by piece, nothing ever taken back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..checkpoint.tokenizer import Tokenizer

# What a byte-level decoder shows for the first bytes of a character whose last ones have not come yet.
_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns tokens into pieces of text that may be shown at once and are never taken back.

    Held back are half a character, white space that may turn out to be the answer's end, and any ending that
    may grow into a stop string. Joined, the pieces are the answer: stripped, and cut before the first stop.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        self._shown = ""
        self.stopped = False

    @property
    def text(self) -> str:
        """All that has been shown."""
        return self._shown

    def push(self, token: int) -> str:
        """One more token -> the new piece, often empty. After a stop string nothing more comes."""
        if self.stopped:
            return ""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        cut = first_stop(text, self._stop)
        if cut is not None:
            self.stopped = True
            return self._show(text[:cut].strip())
        return self._show(self._settled(text))

    def finish(self) -> str:
        """No token will follow -> what was held back."""
        if self.stopped:
            return ""
        self.stopped = True
        return self._show(self._tokenizer.decode(self._ids).strip())

    def _settled(self, text: str) -> str:
        """The part of `text` that no later token can change."""
        text = text.rstrip(_HALF_CHARACTER)
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        return text[: len(text) - held].strip()

    def _show(self, text: str) -> str:
        # A tokenizer may rewrite what it decoded (T5 tidies spaces); what was shown stays shown.
        if not text.startswith(self._shown):
            return ""
        piece = text[len(self._shown) :]
        self._shown = text
        return piece


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins in `text`; None when there is none."""
    found = [place for place in (text.find(one) for one in stop) if place >= 0]
    return min(found, default=None)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest ending of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


def clean(text: str, stop: Sequence[str]) -> str:
    """The answer in what a model wrote: cut before the first stop string, white space stripped."""
    cut = first_stop(text, stop)
    return (text if cut is None else text[:cut]).strip()
