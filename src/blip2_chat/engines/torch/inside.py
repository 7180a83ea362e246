"""What the torch engine can say about an answer from its own inside: attention, and gradients.

The answer is read as a whole (teacher forcing), without a cache. Both measures are taken per part of the answer: a
slice of its tokens, such as the whole or a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...checkpoint.config import ModelConfig
from ..engine import Floats, Given

STEPS = 16
"""Points on the way from nothing to the picture's features at which gradients are taken."""

# Of these at once: activations of a large language model are kept for the way back.
_BATCH = 4

QFormer = Callable[..., tuple[Any, Tensor]]
"""(features [B,T,W], B instructions, more of the Q-Former's arguments) -> its output, and query vectors [B,Q,D]."""


class Inside:
    """A loaded model, seen from within; `qformer` is `engine.TorchEngine`'s."""

    def __init__(self, model: Any, config: ModelConfig, home: torch.device, qformer: QFormer) -> None:
        self._model, self._config, self._home, self._qformer = model, config, home, qformer

    @torch.no_grad()
    def attention(self, pixels: Floats, given: Given) -> Floats:
        """[parts, patches]: see `engine.Inspectable`."""
        with _eager(self._model):
            features = self._features(pixels)
            output, vectors = self._qformer(features, [given.instruction], output_attentions=True)
            # Layers without cross-attention have none. Of the last one [heads, Q, 1 + patches]: what the query
            # vectors themselves were made from. The first token is the whole picture's.
            patches = (
                [one for one in output.cross_attentions if one is not None][-1][0].float().mean(0)[:, 1:]
            )
            read, first = self._read(vectors, given, output_attentions=True)
        alone = self._config.text.is_decoder_only
        layers = read.attentions if alone else read.cross_attentions
        # [T, Q]: how much each of the answer's tokens, where it is predicted, draws on each query vector.
        drawn = torch.stack([one[0].float().mean(0).to(self._home) for one in layers]).mean(0)
        drawn = drawn[first : first + len(given.answer), : vectors.shape[1]]
        rows = [drawn[part].mean(0) @ patches.to(self._home) for part in given.parts]
        return _numpy(torch.stack(rows))

    def gradient(self, pixels: Floats, given: Given) -> Iterator[tuple[int, int, Floats]]:
        """(Points so far, points in all, their sum [parts, patches] over the number in all): see
        `engine.Inspectable`."""
        with torch.no_grad():
            features = self._features(pixels)
        total = torch.zeros((len(given.parts), features.shape[1] - 1), device=features.device)
        places = (torch.arange(STEPS, device=features.device) + 0.5) / STEPS
        for start in range(0, STEPS, _BATCH):
            with torch.enable_grad():
                group = places[start : start + _BATCH, None, None].to(features.dtype)
                points = (group * features).requires_grad_(True)
                scores = self._scores(points, given)  # [B, T]
                for row, part in enumerate(given.parts):
                    more = row + 1 < len(given.parts)
                    (slope,) = torch.autograd.grad(scores[:, part].sum(), points, retain_graph=more)
                    total[row] += (slope.float() * features.float()).sum((0, 2))[1:] / STEPS
            yield start + len(group), STEPS, _numpy(total)

    def _features(self, pixels: Floats) -> Tensor:
        given = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._home)
        features: Tensor = self._model.vision_model(pixel_values=given).last_hidden_state
        return features

    def _scores(self, features: Tensor, given: Given) -> Tensor:
        """The log-probability of each of the answer's tokens: float32 [B, T]."""
        _, vectors = self._qformer(features, [given.instruction] * len(features))
        read, first = self._read(vectors, given)
        logits = read.logits[:, first : first + len(given.answer)].float()
        answer = torch.as_tensor(given.answer, device=logits.device).expand(len(features), -1)
        scores: Tensor = logits.log_softmax(-1).gather(2, answer[..., None])[..., 0]
        return scores

    def _read(self, vectors: Tensor, given: Given, **options: Any) -> tuple[Any, int]:
        """The language model's output over prompt and answer, and the place where the answer's first token is
        predicted."""
        language = self._model.language_model
        table = language.get_input_embeddings()
        vectors = vectors.to(table.weight.dtype)
        alone = self._config.text.is_decoder_only
        ids = [*given.prompt, *given.answer] if alone else list(given.prompt)
        words = table(torch.as_tensor(ids, dtype=torch.long, device=self._home)).expand(len(vectors), -1, -1)
        embeds = torch.cat([vectors, words], dim=1)
        if alone:
            read = language(inputs_embeds=embeds, use_cache=False, **options)
            return read, vectors.shape[1] + len(given.prompt) - 1
        start = self._config.text.decoder_start_token_id
        before = torch.as_tensor([start, *given.answer[:-1]], device=self._home).expand(len(vectors), -1)
        return language(inputs_embeds=embeds, decoder_input_ids=before, use_cache=False, **options), 0


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Attention as plain products: the fused kernels do not tell their weights."""
    parts = (model.qformer, model.language_model)
    before = [part.config._attn_implementation for part in parts]
    for part in parts:
        part.set_attn_implementation("eager")
    try:
        yield
    finally:
        for part, name in zip(parts, before, strict=True):
            part.set_attn_implementation(name)


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().float().cpu().numpy()
    return array
