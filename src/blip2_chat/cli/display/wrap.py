"""Breaking an answer into lines at words, while it is still being written."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len

# Never at the beginning of a line, in scripts that need no spaces between their words.
_CLOSING = "、。，．！？：；）」』】〉》〕…ー"
_SKIN_TONES = range(0x1F3FB, 0x1F400)


class Wrap:
    """`push` pieces of text, print what comes back; `finish` gives the last word.

    A word is held back until it is complete. `width` is asked for each word, because windows change their size.
    Chinese, Japanese and Korean characters take two columns, and a line may end between any two of them. The text
    is to hold printable characters only.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        self._width = width
        self._column = 0
        self._space = ""
        self._word = ""

    def push(self, text: str) -> str:
        """What of the text so far is ready to be printed."""
        ready = ""
        for character in text:
            if character == " ":
                ready += self._complete()
                self._space = " " if self._column else ""
                continue
            if self._word and self._may_break_before(character):
                ready += self._complete()
            self._word += character
            if cell_len(self._word) >= self._width():
                ready += self._complete()
        return ready

    def finish(self) -> str:
        """The last word."""
        return self._complete()

    def _may_break_before(self, character: str) -> bool:
        if cell_len(character) == 0 or character in _CLOSING or ord(character) in _SKIN_TONES:
            return False
        return cell_len(character) == 2 or cell_len(self._word[-1]) == 2

    def _complete(self) -> str:
        if not self._word:
            return ""
        width = max(self._width(), 2)
        word, self._word = self._word, ""
        space, self._space = self._space, ""
        if self._column and self._column + len(space) + cell_len(word) > width:
            lines, self._column = "\n", 0
        else:
            lines, self._column = space, self._column + len(space)
        for character in word:
            if self._column + cell_len(character) > width:  # a word longer than a line
                lines, self._column = lines + "\n", 0
            lines += character
            self._column += cell_len(character)
        return lines
