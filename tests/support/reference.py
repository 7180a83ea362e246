"""transformers as the reference of every engine: each logit computed anew, without a cache, padding or a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Blip2ForConditionalGeneration

from blip2_chat.engines.engine import Engine

TOLERANCE = 1e-4
Row = tuple[int, list[int], list[int]]
"""A picture's place, the prompt, and the answer so far."""


class Reference:
    def __init__(self, folder: Path) -> None:
        self.model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
        self.config = self.model.config
        self.is_t5 = self.config.text_config.model_type == "t5"

    @torch.no_grad()
    def query_vectors(self, pixels: np.ndarray) -> np.ndarray:
        return self.model.get_image_features(torch.from_numpy(pixels)).pooler_output.numpy()

    @torch.no_grad()
    def logits(self, pixels: np.ndarray, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        """[V] after `answer`, which follows the prompt (for T5: the decoder's start token). pixels: [3, H, W]."""
        ids = [self.config.image_token_index] * self.config.num_query_tokens + list(prompt)
        more: dict[str, Any] = {"use_cache": False}
        if self.is_t5:
            more["decoder_input_ids"] = torch.tensor([[0, *answer]])
        else:
            ids = ids + list(answer)
        output = self.model(
            pixel_values=torch.from_numpy(pixels[None]), input_ids=torch.tensor([ids]), **more
        )
        return output.logits[0, -1].numpy()


class Case:
    """An engine beside its reference, three pictures, and random tokens."""

    def __init__(self, reference: Reference, engine: Engine, seed: int = 0) -> None:
        self.reference = reference
        self.engine: Any = engine
        self.rng = np.random.default_rng(seed)
        size = engine.config.vision.image_size
        self.pixels = self.rng.standard_normal((3, 3, size, size)).astype(np.float32)
        self.vectors = engine.encode_image(self.pixels)

    def tokens(self, count: int) -> list[int]:
        # From 4: above the special tokens; below the picture's own.
        return self.rng.integers(4, self.engine.config.image_token_id, count).tolist()

    def check(self, logits: np.ndarray, rows: list[Row]) -> None:
        """Each row of `logits` against the reference for (picture, prompt, answer)."""
        assert logits.shape == (len(rows), self.engine.config.text.vocab_size)
        for row, (picture, prompt, answer) in zip(logits, rows, strict=True):
            expected = self.reference.logits(self.pixels[picture], prompt, answer)
            assert expected.std() > 0.1
            np.testing.assert_allclose(row, expected, rtol=0, atol=TOLERANCE)
