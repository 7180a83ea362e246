"""Scores of given answers are those of a transformers forward over prompt and answer."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration

import blip2_chat
from blip2_chat.errors import GenerationError, PromptTooLongError
from blip2_chat.generation.rows import tokenise_choices
from blip2_chat.generation.scoring import score_choices
from blip2_chat.images import to_pixels
from blip2_chat.model import Model

ANSWERS = ["yes", "no", "two cats on a couch", "a dog", "日本"]
QUESTION = "is there a cat?"


@pytest.fixture(scope="module", params=["onnx-opt", "onnx-t5", "torch-opt", "torch-t5"])
def both(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> tuple[Model, Path]:
    engine, family = request.param.split("-")
    folder = checkpoint(family, 6)
    return blip2_chat.load(folder, engine=engine, precision="fp32", device="cpu", threads=1), folder


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 30, 3), dtype=np.uint8))


def by_transformers(model: Model, folder: Path, prompt: str, answer: str) -> float:
    """The sum of the log-probabilities of an answer and its end, from one forward without any cache."""
    reference = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    config = model.engine.config
    pixels = torch.from_numpy(to_pixels(model.open(picture()), model.preprocess))
    read = [config.image_token_id] * config.num_query_tokens + model.tokenizer.encode(prompt)
    if config.family == "opt":
        tokens = model.tokenizer.encode(f" {answer}" if prompt else answer)[1:]
        written = [*tokens, config.text.eos_token_ids[0]]
        with torch.inference_mode():
            logits = reference(pixels, torch.tensor([read + written])).logits[0, len(read) - 1 : -1]
    else:
        written = model.tokenizer.encode(answer)
        decoder = torch.tensor([[config.text.decoder_start_token_id, *written[:-1]]])
        with torch.inference_mode():
            logits = reference(pixels, torch.tensor([read]), decoder_input_ids=decoder).logits[0]
    return float(logits.log_softmax(-1)[range(len(written)), written].sum())


@pytest.mark.parametrize("prompt", ["Question: is there a cat? Answer:", ""])
def test_scores_are_those_of_transformers(both: tuple[Model, Path], prompt: str) -> None:
    model, folder = both
    expected = [by_transformers(model, folder, prompt, one) for one in ANSWERS]
    assert model.score(picture(), prompt, ANSWERS) == pytest.approx(expected, abs=1e-4)
    assert len({round(one, 3) for one in expected}) == len(ANSWERS)


def test_many_answers_are_scored_in_groups(both: tuple[Model, Path]) -> None:
    model, _ = both
    vectors = model.query_vectors(model.open(picture()))
    prompt = "a photo of"
    choices = tokenise_choices(ANSWERS, prompt, model.tokenizer, model.engine.config)
    tokens = model.tokenizer.encode(prompt)
    scores, _ = score_choices(model.engine, model.tokenizer, vectors, tokens, choices, at_once=2)
    assert scores == pytest.approx(model.score(picture(), "a photo of", ANSWERS), abs=1e-4)


def test_choices_come_best_first_with_probabilities_that_sum_to_one(both: tuple[Model, Path]) -> None:
    model, _ = both
    chosen = model.choose(picture(), QUESTION, ANSWERS)
    scores = dict(
        zip(ANSWERS, model.score(picture(), model.template.render([], QUESTION), ANSWERS), strict=True)
    )
    assert [answer for answer, _ in chosen] == sorted(ANSWERS, key=lambda one: -scores[one])
    assert sum(share for _, share in chosen) == pytest.approx(1)
    (best, most), *_, (worst, least) = chosen
    assert most / least == pytest.approx(np.exp(scores[best] - scores[worst]), rel=1e-3)


def test_scoring_changes_no_answer_and_reads_a_prompt_once(both: tuple[Model, Path]) -> None:
    model, _ = both
    model.states.clear()
    expected = model.ask(picture(), QUESTION, max_new_tokens=6).tokens
    model.states.clear()
    model.choose(picture(), QUESTION, ["yes", "no"])
    assert len(model.states) == 1
    assert model.ask(picture(), QUESTION, max_new_tokens=6).tokens == expected
    assert len(model.states) == 1, "the answer went on from the state of the choice"


@pytest.mark.parametrize("answers", [[], ["yes", ""], ["yes", " yes "], "yes", ["yes", 3]])
def test_choices_that_are_none(both: tuple[Model, Path], answers: list[str]) -> None:
    with pytest.raises(GenerationError, match="answer"):
        both[0].choose(picture(), QUESTION, answers)


def test_what_does_not_fit_is_refused(both: tuple[Model, Path]) -> None:
    with pytest.raises(PromptTooLongError) as caught:
        both[0].choose(picture(), "why? " * 3000, ["yes", "no"])
    assert caught.value.tokens > caught.value.room
