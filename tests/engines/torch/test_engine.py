"""The torch engine keeps the protocol's promises: logits equal transformers' own, whatever was done to a state."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Blip2ForConditionalGeneration

from blip2_chat.checkpoint.config import ModelConfig
from blip2_chat.engines.torch.engine import TorchEngine


class Reference:
    """Transformers run from scratch over whole sequences: no cache, no padding."""

    def __init__(self, folder: Path) -> None:
        self.config = ModelConfig.from_folder(folder)
        self.model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
        side = self.config.vision.image_size
        self.pixels = np.random.default_rng(9).normal(size=(4, 3, side, side)).astype(np.float32)

    @torch.no_grad()
    def logits(
        self, picture: int, prompt: Sequence[int], written: Sequence[int] = ()
    ) -> np.ndarray[Any, Any]:
        """[V] after the prompt and what was written."""
        image = [self.config.image_token_id] * self.config.num_query_tokens
        pixels = torch.from_numpy(self.pixels[picture : picture + 1])
        if self.config.family == "opt":
            out = self.model(pixels, torch.tensor([[*image, *prompt, *written]]))
        else:
            decoder = torch.tensor([[0, *written]])
            out = self.model(pixels, torch.tensor([[*image, *prompt]]), decoder_input_ids=decoder)
        return np.asarray(out.logits[0, -1])


@pytest.fixture(scope="module", params=["opt", "t5"])
def reference(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Reference:
    return Reference(checkpoint(request.param, 5))


@pytest.fixture(scope="module")
def engine(reference: Reference) -> TorchEngine:
    return TorchEngine(reference.model, reference.config, "fp32", "cpu")


PROMPTS = [[2, 10, 11], [2, 20, 21, 22, 23, 24, 25, 26], [2], [2, 30, 31, 32, 33]]
CLOSE = {"rtol": 0, "atol": 1e-4}


@pytest.mark.parametrize("layers", [1, 3])
def test_a_decoder_may_have_other_layers_than_its_encoder(
    checkpoint: Callable[..., Path], layers: int
) -> None:
    reference = Reference(checkpoint("t5", 5, text={"num_decoder_layers": layers}))
    engine = TorchEngine(reference.model, reference.config, "fp32", "cpu")
    state, _ = engine.prefill(engine.encode_image(reference.pixels[:1]), [PROMPTS[1]])
    engine.step(state, [7])
    state.truncate(0)
    engine.step(state, [8])
    state.reorder([0, 0])
    logits = engine.step(state, [9, 10])
    expected = [reference.logits(0, PROMPTS[1], [8, last]) for last in (9, 10)]
    np.testing.assert_allclose(logits, expected, **CLOSE)


def test_a_state_is_reused_as_far_as_the_prompts_agree(
    reference: Reference, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = engine.encode_image(reference.pixels[:1])
    state, _ = engine.prefill(vectors, [[2, 10, 11, 12, 13]])
    engine.step(state, [14])
    embedded: list[int] = []
    embed = engine._embed
    monkeypatch.setattr(engine, "_embed", lambda ids: (embedded.extend(ids), embed(ids))[1])
    for prompt, new in (
        ([2, 10, 11, 12, 13, 14, 15], [15]),  # goes on
        ([2, 10, 11, 45, 46], [45, 46]),  # differs in the middle
        ([2, 10, 11, 45], [45]),  # a beginning of it: the last token is read again
        ([2, 10, 11, 45], [45]),
    ):
        embedded.clear()
        state, logits = engine.prefill(vectors, [prompt], state)
        np.testing.assert_allclose(logits[0], reference.logits(0, prompt), **CLOSE)
        if reference.config.family == "opt":
            assert embedded == new
            assert state.tokens == [prompt]
    assert state.nbytes > 0
    if reference.config.family == "t5":
        assert embedded == [], "the same prompt should not be encoded again"


def test_bf16_keeps_the_qformer_in_fp32(checkpoint: Callable[..., Path]) -> None:
    engine = TorchEngine.load(checkpoint("opt", 5), "bf16", "cpu")
    kinds = {name.split(".")[0]: p.dtype for name, p in engine._model.named_parameters()}
    assert kinds["query_tokens"] == kinds["qformer"] == torch.float32
    assert kinds["vision_model"] == kinds["language_model"] == torch.bfloat16
    vectors = engine.encode_image(np.zeros((1, 3, 28, 28), np.float32))
    assert vectors.dtype == np.float32
    assert np.isfinite(engine.prefill(vectors, [[2, 5]])[1]).all()
