"""What is kept between answers saves work and never changes an answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blip2_chat
from blip2_chat.engines.engine import Floats, State, common_prefix
from blip2_chat.generation.reuse import StateCache, array_cache
from blip2_chat.model import Model
from tests.support.extras import needs

WORDS = [
    "how many",
    "cats",
    "are there",
    "what colour",
    "is",
    "the car",
    "on the left",
    "a dog",
    "at night",
    "why",
]


class _Row:
    """A state of one row that claims a size; only the cache's own rules are tried on it."""

    def __init__(self, tokens: Sequence[int], nbytes: int = 100) -> None:
        self.tokens = [list(tokens)]
        self.nbytes = nbytes

    def reusable(self, prompt: Sequence[int]) -> int | None:
        return common_prefix(self.tokens[0], prompt)

    def reorder(self, rows: Sequence[int]) -> None: ...

    def truncate(self, length: int) -> None: ...

    def append(self, other: State) -> None: ...

    def take(self, rows: Sequence[int], length: int | None = None) -> _Row:
        return _Row(self.tokens[0][:length], self.nbytes)


@pytest.fixture(
    scope="module",
    params=[
        "onnx-opt",
        "onnx-t5",
        "onnx-instruct-t5",
        "onnx-instruct-llama",
        pytest.param("torch-opt", marks=needs("test-torch")),
        pytest.param("torch-instruct-llama", marks=needs("test-torch")),
    ],
)
def model(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Model:
    engine, family = request.param.split("-", 1)
    return blip2_chat.load(checkpoint(family, 6), engine=engine, precision="fp32", device="cpu", threads=1)


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)) for _ in range(count)]


def converse(model: Model, seed: int, forgetful: bool) -> list[tuple[int, ...]]:
    """A random conversation, its turns now and then undone, put otherwise, or about another picture."""
    chance = random.Random(seed)
    seen = pictures(3)
    chats = [model.chat(one, max_new_tokens=4) for one in seen]
    answers = []
    for _ in range(chance.randint(2, 6)):
        chat = chance.choice(chats)
        if forgetful:
            model.states.clear()
        if chat.turns and chance.random() < 0.3:
            chat.undo()
        settings = chance.choice([{}, {}, {"num_beams": 2}, {"temperature": 0.8, "seed": 3}])
        if chance.random() < 0.2:
            answers.append(chat.caption(chance.choice(["a photo of", ""]), **settings).tokens)
        else:
            answers.append(chat.ask(" ".join(chance.choices(WORDS, k=4)) + "?", **settings).tokens)
    return answers


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_conversations_have_the_same_answers_with_and_without_reuse(model: Model, count: int) -> None:
    """The torch engine, which takes three times as long, has the first quarter of them."""
    seeds = range(count if model.engine.name == "onnx" else count // 4)
    model.states.clear()
    kept = [converse(model, seed, forgetful=False) for seed in seeds]
    assert kept == [converse(model, seed, forgetful=True) for seed in seeds]


def test_a_follow_up_goes_on_from_the_turn_before(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model.states.clear()
    given: list[tuple[int, int]] = []
    prefill = model.engine.prefill

    def counted(
        vectors: Floats, prompts: Sequence[Sequence[int]], state: State | None = None
    ) -> tuple[State, Floats]:
        given.append((len(prompts[0]), 0 if state is None else len(state.tokens[0])))
        return prefill(vectors, prompts, state)

    monkeypatch.setattr(model.engine, "prefill", counted)
    chat = model.chat(pictures(1)[0], max_new_tokens=4)
    chat.ask("how many cats are there?")
    chat.ask("why?", num_beams=3)
    chat.ask("what colour is the car?")
    assert given[0][1] == 0
    if model.engine.config.family == "opt":
        assert given[1][1] >= given[0][0] and given[2][1] >= given[1][0]


def test_another_question_about_a_picture_does_not_read_the_picture_again(
    checkpoint: Callable[..., Path],
) -> None:
    """Of every answer in between, whole conversations included, the picture's part of the cache is used again."""
    model = blip2_chat.load(checkpoint("opt", 6), precision="fp32", threads=1)
    fresh = blip2_chat.load(checkpoint("opt", 6), precision="fp32", threads=1)
    sizes: list[int] = []
    run = model.engine._language._run  # type: ignore[attr-defined]

    def counted(state: State, x: Floats, *rest: object, **options: object) -> None:
        sizes.append(x.shape[1])
        run(state, x, *rest, **options)

    model.engine._language._run = counted  # type: ignore[attr-defined]
    picture = pictures(1)[0]
    settings = {"max_new_tokens": 6, "min_new_tokens": 6}
    long_talk = model.chat(picture, **settings)
    before = long_talk.ask("how many cats are there on the left?").prompt_tokens
    for other in (True, False):
        for question in ("what colour is the car?", "why?"):
            sizes.clear()
            prompt = f"Question: {question} Answer:"
            answer = model.generate(picture, prompt, **settings)
            assert sizes[0] < len(model.tokenizer.encode(prompt)), "the picture was read again"
            assert answer.tokens == fresh.generate(picture, prompt, **settings).tokens
        if other:
            # The conversation they interrupted is still there: only what came after its first question is read.
            sizes.clear()
            follow_up = long_talk.ask("why?")
            assert follow_up.prompt_tokens - sizes[0] >= before


def test_the_state_with_the_longest_common_prefix_is_reused() -> None:
    cache = StateCache()
    short, long, other = _Row([1, 2, 3]), _Row([1, 2, 3, 4, 5]), _Row([1, 9, 9, 9, 9, 9])
    for key, state in (("a", short), ("a", long), ("a", other), ("b", _Row([1, 2, 3, 4, 5, 6]))):
        cache.put(key, state)
    assert cache.take("a", [1, 2, 3, 4, 5, 6]) is long
    assert cache.take("a", [1, 2, 3, 4, 5, 6]) is short
    assert cache.take("a", [1, 9, 9, 9]) is other
    assert cache.take("c", [1]) is None


def test_a_prefix_shared_with_another_conversation_is_copied() -> None:
    cache = StateCache()
    stranger = _Row([1, 9, 9, 9, 9, 9])
    cache.put("a", stranger)
    taken = cache.take("a", [1, 2, 3])
    assert taken is not None and taken is not stranger and taken.tokens == [[1]]
    assert cache.take("a", [1, 9, 9, 9, 9, 9, 9]) is stranger


def test_states_are_bounded_in_bytes_and_the_oldest_goes_first() -> None:
    cache = StateCache(max_bytes=300)
    second = _Row([2])
    for state in (_Row([1]), second, _Row([3]), _Row([4])):
        cache.put("a", state)
    assert cache.nbytes == 300 and len(cache) == 3
    assert cache.take("a", [2]) is second
    cache.put("a", _Row([5], nbytes=301))
    assert len(cache) == 2, "larger than the bound alone"


def test_query_vectors_are_bounded_and_the_least_recently_used_goes_first() -> None:
    cache = array_cache(max_bytes=3 * 400)
    vectors = np.zeros((1, 10, 10), np.float32)
    for key in "abc":
        cache.put(key, vectors)
    assert cache.get("a") is not None
    cache.put("d", vectors)
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]
