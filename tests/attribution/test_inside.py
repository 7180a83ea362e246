"""Attention and integrated gradients, against transformers' own models, and words against their log-probabilities."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Blip2ForConditionalGeneration, InstructBlipForConditionalGeneration

import blip2_chat
from blip2_chat.attribution import attribute, words_of
from blip2_chat.checkpoint.config import FAMILIES, ModelConfig
from blip2_chat.engines.engine import Given
from blip2_chat.engines.torch.engine import TorchEngine
from blip2_chat.generation.rows import tokenise_choices
from blip2_chat.model import Model
from tests.support.pictures import photo

ANSWER = "two cats and a dog on the left"
PARTS = [slice(None), slice(0, 1), slice(1, 4)]


class Official:
    """transformers' model, its attention told, its features replaceable."""

    def __init__(self, folder: Path) -> None:
        self.is_instruct = ModelConfig.from_folder(folder).reads_instruction
        kind = InstructBlipForConditionalGeneration if self.is_instruct else Blip2ForConditionalGeneration
        self.model = kind.from_pretrained(folder, attn_implementation="eager").eval()
        self.is_t5 = self.model.config.text_config.model_type == "t5"

    def __call__(self, pixels: np.ndarray, given: Given, **options: Any) -> Any:
        queries = self.model.config.num_query_tokens
        ids = [self.model.config.image_token_index] * queries + list(given.prompt)
        if self.is_instruct:
            options["qformer_input_ids"] = torch.tensor([list(given.instruction)])
        if self.is_t5:
            options["decoder_input_ids"] = torch.tensor([[0, *given.answer[:-1]]])
        else:
            ids += given.answer
        return self.model(pixel_values=torch.from_numpy(pixels), input_ids=torch.tensor([ids]), **options)

    def first(self, given: Given) -> int:
        """Where the answer's first token is predicted."""
        return 0 if self.is_t5 else self.model.config.num_query_tokens + len(given.prompt) - 1

    def logprobs(self, pixels: np.ndarray, given: Given) -> torch.Tensor:
        """[T], differentiable."""
        logits = self(pixels, given).logits[0, self.first(given) :]
        return torch.stack(
            [row.log_softmax(-1)[token] for row, token in zip(logits, given.answer, strict=False)]
        )


@pytest.fixture(scope="module", params=FAMILIES)
def both(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> tuple[Model, Official]:
    folder = checkpoint(request.param, 5)
    model = blip2_chat.load(folder, engine="torch", precision="fp32", device="cpu")
    return model, Official(folder)


@pytest.fixture
def asked(both: tuple[Model, Official]) -> tuple[np.ndarray, Given]:
    model = both[0]
    size = model.engine.config.vision.image_size
    pixels = np.random.default_rng(3).standard_normal((1, 3, size, size)).astype(np.float32)
    prompt = model.template.render([], "what is it?")
    answer = model.tokenizer.encode_answer(ANSWER, prompt)
    return pixels, Given(model.tokenizer.encode(prompt), answer, PARTS, model.tokenizer.instruction(prompt))


@torch.no_grad()
def test_attention_is_transformers_own(both: tuple[Model, Official], asked: tuple[np.ndarray, Given]) -> None:
    (model, official), (pixels, given) = both, asked
    assert isinstance(model.engine, TorchEngine)
    before = model.engine.encode_image(pixels)
    looks = [layer for layer in official.model.qformer.encoder.layer if layer.has_cross_attention]
    seen: list[torch.Tensor] = []
    hook = looks[-1].crossattention.attention.register_forward_hook(lambda *called: seen.append(called[2][1]))
    language = official(pixels, given, output_attentions=True).language_model_outputs
    hook.remove()
    ((cross,),) = seen
    layers = language.cross_attentions if official.is_t5 else language.attentions
    at, queries = official.first(given), cross.shape[1]
    expected = []
    for part in PARTS:
        tokens = range(len(given.answer))[part]
        drawn = np.mean(
            [layer[0, :, at + token, :queries].mean(0) for layer in layers for token in tokens], 0
        )
        expected.append(drawn @ cross.mean(0).numpy()[:, 1:])
    found = model.engine.attention(pixels, given)
    assert np.std(expected[0]) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(model.engine.encode_image(pixels), before)


def test_gradients_are_autograds_of_transformers_model(
    both: tuple[Model, Official], asked: tuple[np.ndarray, Given]
) -> None:
    (model, official), (pixels, given) = both, asked
    assert isinstance(model.engine, TorchEngine)
    features = official.model.vision_model(torch.from_numpy(pixels)).last_hidden_state.detach()
    points = [(place + 0.5) / 16 for place in range(16)]
    expected = np.zeros((len(PARTS), features.shape[1] - 1))
    for point in points:
        scaled = (point * features).requires_grad_(True)

        def replaced(_module: Any, _given: Any, output: Any, by: torch.Tensor = scaled) -> Any:
            output.last_hidden_state = by
            return output

        hook = official.model.vision_model.register_forward_hook(replaced)
        try:
            logprobs = official.logprobs(pixels, given)
        finally:
            hook.remove()
        for row, part in enumerate(PARTS):
            (slope,) = torch.autograd.grad(logprobs[part].sum(), scaled, retain_graph=True)
            expected[row] += (slope * features).sum(-1)[0, 1:].numpy() / len(points)
    *_, (done, total, found) = model.engine.gradient(pixels, given)
    assert done == total == len(points)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


class Recording:
    """An engine that keeps the pictures it is shown."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.pictures: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def encode_image(self, pixels: np.ndarray) -> np.ndarray:
        self.pictures += list(pixels)
        encoded: np.ndarray = self._engine.encode_image(pixels)
        return encoded


@torch.no_grad()
def test_a_word_loses_what_transformers_says_its_tokens_lose(
    both: tuple[Model, Official], asked: tuple[np.ndarray, Given]
) -> None:
    (model, official), (pixels, given) = both, asked
    prompt = model.template.render([], "what is it?")
    (choice,) = tokenise_choices([ANSWER], prompt, model.tokenizer, model.engine.config)
    words = words_of(model.tokenizer, given.answer)
    assert [word for word, _ in words] == ANSWER.split()
    parts = [slice(None), *(place for _, place in words)]
    engine: Any = Recording(model.engine)
    whole, *each = attribute(engine, model.tokenizer, pixels, prompt, choice, parts)
    scores = np.array([official.logprobs(picture[None], given).numpy() for picture in engine.pictures])
    losses = scores[0] - scores[1:]
    for found, part in zip([whole, *each], parts, strict=True):
        assert found.weight == pytest.approx(losses[:, part].sum(1).max(), abs=1e-3)
        assert found.heat.shape == pixels.shape[2:] and found.heat.dtype == np.float32
    (alone,) = attribute(model.engine, model.tokenizer, pixels, prompt, choice)
    np.testing.assert_allclose(alone.heat, whole.heat, atol=1e-3)


@pytest.mark.parametrize("method", ["gradient", "attention"])
def test_maps_have_the_pictures_frame(both: tuple[Model, Official], method: str) -> None:
    model = both[0]
    picture = photo(30, 60)
    heat = model.attribution(picture, "what is it?", ANSWER, method=method)
    assert heat.shape == (30, 60) and heat.dtype == np.float32
    assert heat.min() >= 0 and 0.5 < heat.max() <= 1
    words = model.word_attributions(picture, "what is it?", ANSWER, method=method)
    assert [one.word for one in words] == ANSWER.split()
    assert max(one.strength for one in words) == 1 and min(one.strength for one in words) >= 0
    assert all(one.heat.shape == heat.shape for one in words)
