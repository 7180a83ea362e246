"""transformers' `Blip2ForImageTextRetrieval` as the reference: its own `forward`, one pair at a time, no padding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import BertTokenizer, Blip2ForImageTextRetrieval

from blip2_chat.images import Preprocess, open_picture, to_pixels


class RetrievalReference:
    """`folder` has a vocabulary and picture settings beside the weights, as the official checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.model = Blip2ForImageTextRetrieval.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = BertTokenizer.from_pretrained(folder)
        self._preprocess = Preprocess.for_model(folder, self.model.config.vision_config.image_size)

    def similarity(self, pictures: Sequence[object], texts: Sequence[str]) -> np.ndarray:
        return np.array([[self._forward(one, text, False).item() for text in texts] for one in pictures])

    def match(self, pictures: Sequence[object], texts: Sequence[str]) -> np.ndarray:
        return np.array(
            [[self._forward(one, text, True).softmax(1)[0, 1].item() for text in texts] for one in pictures]
        )

    def embeddings(self, picture: object, text: str) -> tuple[np.ndarray, np.ndarray]:
        """[Q, E] and [E]."""
        output = self._output(picture, text, False)
        return output.image_embeds[0].numpy(), output.text_embeds[0].numpy()

    def _forward(self, picture: object, text: str, matching: bool) -> torch.Tensor:
        return self._output(picture, text, matching).logits_per_image

    @torch.no_grad()
    def _output(self, picture: object, text: str, matching: bool):
        pixels = torch.from_numpy(to_pixels(open_picture(picture), self._preprocess))
        words = self.tokenizer([text], return_tensors="pt")
        return self.model(
            pixel_values=pixels,
            input_ids=words.input_ids,
            attention_mask=words.attention_mask,
            use_image_text_matching_head=matching,
        )
