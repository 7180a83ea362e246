"""transformers as the reference of every engine: each logit computed anew, without a cache, padding or a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Blip2ForConditionalGeneration, InstructBlipForConditionalGeneration

from blip2_chat.checkpoint.config import ModelConfig
from blip2_chat.engines.engine import Engine

TOLERANCE = 1e-4
Row = tuple[int, list[int], list[int]]
"""A picture's place, the prompt, and the answer so far."""


class Reference:
    def __init__(self, folder: Path) -> None:
        self.is_instruct = ModelConfig.from_folder(folder).reads_instruction
        kind = InstructBlipForConditionalGeneration if self.is_instruct else Blip2ForConditionalGeneration
        self.model = kind.from_pretrained(folder).eval()
        self.config = self.model.config
        self.is_t5 = self.config.text_config.model_type == "t5"

    @torch.no_grad()
    def query_vectors(self, pixels: np.ndarray, instructions: Sequence[Sequence[int]] = ()) -> np.ndarray:
        """[B, Q, D]; `instructions` of B pictures for InstructBLIP, each computed alone."""
        if not self.is_instruct:
            return self.model.get_image_features(torch.from_numpy(pixels)).pooler_output.numpy()
        rows = [
            self.model.get_image_features(
                torch.from_numpy(picture[None]), qformer_input_ids=torch.tensor([instruction])
            ).pooler_output.numpy()
            for picture, instruction in zip(pixels, instructions, strict=True)
        ]
        return np.concatenate(rows)

    @torch.no_grad()
    def logits(
        self,
        pixels: np.ndarray,
        prompt: Sequence[int],
        answer: Sequence[int],
        instruction: Sequence[int] = (),
    ) -> np.ndarray:
        """[V] after `answer`, which follows the prompt (for T5: the decoder's start token). pixels: [3, H, W]."""
        ids = [self.config.image_token_index] * self.config.num_query_tokens + list(prompt)
        more: dict[str, Any] = {"use_cache": False}
        if self.is_instruct:
            more["qformer_input_ids"] = torch.tensor([list(instruction)])
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
        self.encoded = engine.encode_image(self.pixels)
        # What the Q-Former reads beside each picture, where it reads: of different lengths.
        is_read = engine.config.reads_instruction
        self.instructions = [[2, *self.words(n), 3] for n in (4, 17, 0)] if is_read else [[], [], []]
        self.vectors = engine.query(self.encoded, self.instructions)

    def words(self, count: int) -> list[int]:
        """Random ids of the Q-Former's own vocabulary, above its special tokens."""
        return self.rng.integers(5, self.engine.config.qformer.vocab_size, count).tolist()

    def tokens(self, count: int) -> list[int]:
        # From 4: above the special tokens; below the picture's own.
        return self.rng.integers(4, self.engine.config.image_token_id, count).tolist()

    def check(self, logits: np.ndarray, rows: list[Row]) -> None:
        """Each row of `logits` against the reference for (picture, prompt, answer)."""
        assert logits.shape == (len(rows), self.engine.config.text.vocab_size)
        for row, (picture, prompt, answer) in zip(logits, rows, strict=True):
            instruction = self.instructions[picture]
            expected = self.reference.logits(self.pixels[picture], prompt, answer, instruction)
            assert expected.std() > 0.1
            np.testing.assert_allclose(row, expected, rtol=0, atol=TOLERANCE)
