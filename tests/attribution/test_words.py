"""The words of an answer: each token belongs to one, in every family's tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blip2_chat.attribution import words_of
from blip2_chat.checkpoint.config import FAMILIES
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.checkpoint.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Tokenizer:
    folder = checkpoint(request.param, 5)
    return Tokenizer.from_folder(folder, inspect(folder).config)


@given(text=st.text(st.sampled_from("ab dogé犬🐶 ,.'-\n"), max_size=30))
def test_words_and_their_tokens(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode_answer(text, "Question: what? Answer:")
    words = words_of(tokenizer, tokens)
    assert " ".join(word for word, _ in words).split() == tokenizer.decode(tokens).split()
    assert [place for _, part in words for place in range(*part.indices(len(tokens)))] == list(
        range(len(tokens))
    )


def test_a_word_is_as_the_text_has_it(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode_answer("two dogs on the couch", "Question: what? Answer:")
    words = words_of(tokenizer, tokens)
    assert [word for word, _ in words] == ["two", "dogs", "on", "the", "couch"]
    for word, place in words:
        assert tokenizer.decode(tokens[place]).strip() == word
