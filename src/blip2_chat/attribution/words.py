"""The words of an answer, and the tokens of each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ..checkpoint.tokenizer import Tokenizer


def words_of(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[tuple[str, slice]]:
    """What white space separates in the text of `token_ids` -> (word, its place among the tokens), in order.

    A token belongs to the word that its last character is in; where one token holds several words, they are one.
    """
    texts = [tokenizer.decode(token_ids[: count + 1]).split() for count in range(len(token_ids))]
    found: list[tuple[str, slice]] = []
    start = written = 0
    for _, group in groupby(texts, key=lambda words: max(len(words), 1)):
        tokens = list(group)
        words = tokens[-1]
        found.append((" ".join(words[written:]), slice(start, start + len(tokens))))
        start, written = start + len(tokens), len(words)
    return found
