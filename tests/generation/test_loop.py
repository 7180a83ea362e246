"""Greedy, beam and sampled decoding give what transformers' `generate` gives on the same model."""

from __future__ import annotations

from tests.support.extras import require
from tests.support.variants import each_family

require("test-torch")

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import Blip2ForConditionalGeneration, InstructBlipForConditionalGeneration

import blip2_chat
from blip2_chat.checkpoint.config import FAMILIES, ModelConfig
from blip2_chat.checkpoint.tokenizer import Tokenizer
from blip2_chat.engines.engine import Engine
from blip2_chat.engines.torch.engine import TorchEngine
from blip2_chat.errors import GenerationError
from blip2_chat.generation.loop import Batch, generate
from blip2_chat.generation.rows import Generated, Task
from blip2_chat.generation.sampling import probabilities
from blip2_chat.generation.settings import Decoding

SEEDS = range(20)
# A few seeds are enough unless all tests are wanted; of InstructBLIP, which runs on both engines, fewer.
FEW = {"opt": range(4), "t5": range(2), "instruct-t5": range(2), "instruct-llama": range(2)}
PROMPTS = {
    "opt": "Question: how many cats are there? Answer:",
    "t5": "Question: what colour is the car? Short answer:",
    "instruct-t5": "Describe the car on the left in short.",
    "instruct-llama": "how many cats are there at night? What are they?",
}
INSTRUCT = ("instruct-t5", "instruct-llama")


class Pair:
    """One random checkpoint in transformers and in an engine of ours, with two pictures and prompts."""

    def __init__(self, folder: Path, family: str, seed: int, engine: str = "torch") -> None:
        self.config = ModelConfig.from_folder(folder)
        is_instruct = self.config.reads_instruction
        kind = InstructBlipForConditionalGeneration if is_instruct else Blip2ForConditionalGeneration
        self.reference = kind.from_pretrained(folder).eval()
        self.engine: Engine = TorchEngine(self.reference, self.config, "fp32", "cpu")
        if engine == "onnx":
            self.engine = blip2_chat.load(folder, engine="onnx", precision="fp32", threads=1).engine
        size = self.config.vision.image_size
        self.pixels = np.random.default_rng(seed).normal(size=(2, 3, size, size)).astype(np.float32)
        self.tokenizer = Tokenizer.from_folder(folder, self.config)
        texts = [PROMPTS[family] + more for more in ("", " a dog on")]
        self.prompts = [self.tokenizer.encode(text) for text in texts]
        self.instructions = [self.tokenizer.instruction(text) for text in texts]

    def ours(self, rows: int = 1, **settings: Any) -> list[list[list[int]]]:
        return [[one.token_ids for one in group] for group in self.generated(rows, **settings)]

    def scores(self, **settings: Any) -> list[float]:
        return [one.score for one in self.generated(**settings)[0]]

    def generated(self, rows: int = 1, **settings: Any) -> list[list[Generated]]:
        vectors = self.engine.query(self.engine.encode_image(self.pixels[:rows]), self.instructions[:rows])
        tasks = [Task(prompt, Decoding.of(**settings)) for prompt in self.prompts[:rows]]
        return generate(self.engine, self.tokenizer, vectors, tasks)

    def theirs(self, row: int = 0, **settings: Any) -> tuple[list[list[int]], list[float]]:
        ids = [self.config.image_token_id] * self.config.num_query_tokens + self.prompts[row]
        if self.config.reads_instruction:
            settings["qformer_input_ids"] = torch.tensor([self.instructions[row]])
        out = self.reference.generate(
            torch.from_numpy(self.pixels[row : row + 1]),
            input_ids=torch.tensor([ids]),
            return_dict_in_generate=True,
            output_scores=True,
            eos_token_id=list(self.config.text.eos_token_ids),
            pad_token_id=0 if self.config.text.kind == "llama" else self.config.text.pad_token_id,
            **settings,
        )
        start = len(ids) if self.config.text.is_decoder_only else 1
        eos = set(self.config.text.eos_token_ids)
        written = []
        for sequence in out.sequences.tolist():
            new = sequence[start:]
            ends = [place for place, token in enumerate(new) if token in eos]
            written.append(new[: ends[0]] if ends else new)
        scores = getattr(out, "sequences_scores", None)
        return written, [] if scores is None else scores.tolist()


@cache
def pair_of(folder: Path, family: str, seed: int, engine: str = "torch") -> Pair:
    """Made once: loading takes transformers longer than generating."""
    return Pair(folder, family, seed, engine)


def _pairs() -> Iterator[Any]:
    for family in FAMILIES:
        for engine in ("torch", "onnx") if family in INSTRUCT else ("torch",):
            for seed in SEEDS:
                marks = [] if seed in FEW[family] else [pytest.mark.slow]
                yield pytest.param((family, seed, engine), id=f"{engine}-{family}-{seed}", marks=marks)


@pytest.fixture(params=_pairs())
def pair(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Pair:
    family, seed, engine = request.param
    return pair_of(checkpoint(family, seed), family, seed, engine)


def test_greedy_and_beam_are_token_identical(pair: Pair) -> None:
    greedy, _ = pair.theirs(max_new_tokens=12, do_sample=False)
    assert pair.ours(max_new_tokens=12) == [greedy]

    beams = {"num_beams": 4, "max_new_tokens": 10, "length_penalty": 1.7}
    expected, scores = pair.theirs(num_return_sequences=3, **beams)
    assert pair.ours(num_answers=3, **beams) == [expected]
    assert pair.scores(num_answers=3, **beams) == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("family", each_family())
@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.8, "max_new_tokens": 15},
        {"no_repeat_ngram_size": 2, "max_new_tokens": 25},
        {"min_new_tokens": 9, "max_new_tokens": 12},
        {"num_beams": 3, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "max_new_tokens": 12},
        {"num_beams": 5, "early_stopping": True, "length_penalty": -0.5, "max_new_tokens": 12},
        {"num_beams": 3, "length_penalty": 0.0, "min_new_tokens": 4, "max_new_tokens": 9},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_constraints_are_those_of_transformers(
    checkpoint: Callable[..., Path], family: str, settings: dict[str, Any]
) -> None:
    for seed in range(3):
        pair = pair_of(checkpoint(family, seed), family, seed)
        assert pair.ours(**settings) == [pair.theirs(**settings)[0]]


@pytest.mark.parametrize("penalty", [-10.0, 10.0])
def test_beams_have_an_answer_at_any_length_penalty(checkpoint: Callable[..., Path], penalty: float) -> None:
    pair = pair_of(checkpoint("opt", 1), "opt", 1)
    settings = {"num_beams": 3, "num_answers": 3, "length_penalty": penalty, "max_new_tokens": 30}
    assert [len(group) for group in pair.ours(**settings)] == [3]


def _often_ending(checkpoint: Callable[..., Path], family: str, seed: int, every: int = 4) -> Pair:
    """A model that every fourth token ends, so that beams end at different lengths."""
    pair = Pair(checkpoint(family, seed), family, seed)
    object.__setattr__(pair.config.text, "eos_token_ids", tuple(range(0, pair.config.text.vocab_size, every)))
    return pair


@pytest.mark.parametrize("family", ["opt", "t5"])
@pytest.mark.parametrize(("penalty", "early"), [(0.0, False), (0.3, True), (1.0, False), (2.5, False)])
def test_beams_that_end_early_are_ranked_as_in_transformers(
    checkpoint: Callable[..., Path], family: str, penalty: float, early: bool
) -> None:
    lengths = set()
    for seed in range(6):
        pair = _often_ending(checkpoint, family, seed, every=4 if family == "opt" else 3)
        beams = {"num_beams": 4, "max_new_tokens": 8, "length_penalty": penalty, "early_stopping": early}
        expected, scores = pair.theirs(num_return_sequences=4, **beams)
        lengths |= {len(one) for one in expected}
        assert pair.ours(num_answers=4, **beams) == [expected]
        assert pair.scores(num_answers=4, **beams) == pytest.approx(scores, abs=1e-4)
    assert len(lengths) > 1, "the beams should end at different lengths"


@pytest.mark.parametrize("family", each_family())
@pytest.mark.parametrize("beams", [1, 3])
def test_two_pictures_at_once_get_the_answers_they_get_alone(
    checkpoint: Callable[..., Path], family: str, beams: int
) -> None:
    lengths = set()
    for seed in range(6 if family == "opt" else 3):
        pair = _often_ending(checkpoint, family, seed, every=4 if family in INSTRUCT else 9)
        settings = {"num_beams": beams, "max_new_tokens": 12}
        alone = [pair.theirs(row, **settings)[0] for row in (0, 1)]
        lengths.add(len(alone[0][0]) - len(alone[1][0]))
        assert pair.ours(rows=2, **settings) == alone
    assert len(lengths) > 1, "one of the two should end before the other"


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 12, "top_p": 0.8}])
def test_sampling_has_transformers_distribution(
    checkpoint: Callable[..., Path], settings: dict[str, Any]
) -> None:
    pair = pair_of(checkpoint("opt", 3), "opt", 3)
    draws, temperature = 4000, 0.6
    vectors = pair.engine.encode_image(pair.pixels[:1])
    decoding = Decoding.of(temperature=temperature, num_answers=draws, max_new_tokens=1, seed=7, **settings)
    batch = Batch(pair.engine, pair.tokenizer)
    (member,) = batch.join(vectors, [Task(pair.prompts[0], decoding)])
    batch.choose()
    eos = pair.config.text.eos_token_ids[:1]
    first = [(one.token_ids or eos)[0] for one in member.rows.results]
    ours = np.bincount(first, minlength=pair.config.text.vocab_size)

    ids = torch.tensor([[pair.config.image_token_id] * pair.config.num_query_tokens + pair.prompts[0]])
    out = pair.reference.generate(
        torch.from_numpy(pair.pixels[:1]),
        ids,
        do_sample=True,
        temperature=temperature,
        max_new_tokens=1,
        return_dict_in_generate=True,
        output_scores=True,
        **{"top_k": 0, "top_p": 1.0, **settings},
    )
    expected = torch.softmax(out.scores[0][0].double(), dim=-1).numpy()
    assert set(np.flatnonzero(ours)) <= set(np.flatnonzero(expected)), (
        "a token was drawn that transformers excludes"
    )
    # Rare tokens are pooled, so that every cell of the test has enough draws.
    common = expected * draws >= 8
    seen = np.append(ours[common], ours[~common].sum())
    hoped = np.append(expected[common], expected[~common].sum()) * draws
    if hoped[-1] == 0:
        seen, hoped = seen[:-1], hoped[:-1]
    assert len(hoped) >= 3
    assert chisquare(seen, hoped).pvalue > 1e-3


@pytest.mark.parametrize("family", each_family())
def test_an_answer_that_is_begun_continues_as_in_transformers(
    family: str, checkpoint: Callable[..., Path]
) -> None:
    """The first token is one that the model would not have chosen, so the rest depends on it."""
    pair = Pair(checkpoint(family), family, 0)
    first = next(
        token
        for token in range(10, pair.config.text.vocab_size)
        if token not in (*pair.config.text.eos_token_ids, *pair.ours(max_new_tokens=1)[0][0])
    )
    start = 1
    if pair.config.text.is_decoder_only:
        start = pair.config.num_query_tokens + len(pair.prompts[0])
    every = list(range(pair.config.text.vocab_size))
    (expected,), _ = pair.theirs(
        max_new_tokens=8,
        do_sample=False,
        prefix_allowed_tokens_fn=lambda _, ids: [first] if ids.shape[-1] == start else every,
    )
    task = Task(
        pair.prompts[0],
        Decoding(max_new_tokens=8),
        instruction=pair.instructions[0],
        begun=(first,),
    )
    encoded = pair.engine.encode_image(pair.pixels[:1])
    vectors = pair.engine.query(encoded, [pair.instructions[0]])
    ((ours,),) = generate(pair.engine, pair.tokenizer, vectors, [task])
    assert ours.token_ids == expected and expected[0] == first


def test_a_seed_repeats_the_draws_and_another_seed_does_not(checkpoint: Callable[..., Path]) -> None:
    pair = pair_of(checkpoint("opt", 3), "opt", 3)
    settings: dict[str, Any] = {"temperature": 1.5, "max_new_tokens": 12, "num_answers": 3}
    once = pair.ours(seed=5, **settings)
    assert once == pair.ours(seed=5, **settings)
    assert once != pair.ours(seed=6, **settings)
    assert len({tuple(one) for one in once[0]}) == 3


def test_at_the_smallest_temperature_the_likeliest_token_is_drawn() -> None:
    logits = np.asarray([1, 5, -np.inf, 3], np.float32)
    chances = probabilities(logits, Decoding(temperature=5e-324, top_k=3, top_p=0.9))
    assert chances.tolist() == [0, 1, 0, 0]


def test_top_p_keeps_the_likeliest_token_even_when_it_is_tiny() -> None:
    scores = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float32))
    assert probabilities(scores, Decoding(temperature=1, top_p=0.01)).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("settings", "wrong", "rule"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens", "give at least 1"),
        (
            {"num_beams": 2, "temperature": 0.5},
            "temperature",
            "beam search ({num_beams} is 2) does not sample",
        ),
        ({"top_p": 0.9}, "top_p", "set {temperature} above 0"),
        ({"top_k": 5}, "top_k", "set {temperature} above 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p", "give more than 0 and at most 1"),
        ({"num_answers": 2}, "num_answers", "greedy decoding has only one answer"),
        ({"num_answers": 3, "num_beams": 2}, "num_answers", "give at most {num_beams}, which is 2"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens", "give at most {max_new_tokens}"),
        ({"temperature": float("nan")}, "temperature", "give 0 or more"),
        ({"temperature": float("inf")}, "temperature", "give 0 or more"),
        ({"temperature": 0.5, "seed": -1}, "seed", "give 0 or more"),
        ({"num_beams": 2, "length_penalty": 1000.0}, "length_penalty", "give -10 to 10"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty", "give -10 to 10"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "give 0.01 to 100"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size", "give 0 or more"),
        ({"num_beams": 2, "early_stopping": "never"}, "early_stopping", "give True or False"),
    ],
)
def test_settings_that_cannot_be_are_errors_with_their_name_value_and_rule(
    settings: dict[str, Any], wrong: str, rule: str
) -> None:
    with pytest.raises(GenerationError) as caught:
        Decoding.of(**settings)
    assert caught.value.setting == wrong
    assert caught.value.value is settings[wrong]
    assert caught.value.rule is not None and rule in caught.value.rule
    assert "{" not in str(caught.value) and str(caught.value).startswith(f"{wrong} is ")


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(GenerationError, match="unknown setting 'temprature'") as caught:
        Decoding.of(temprature=1)  # type: ignore[call-arg]
    assert caught.value.setting == "temprature"
