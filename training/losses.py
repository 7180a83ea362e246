"""One forward pass for training, through the official modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Blip2ForConditionalGeneration

from .batches import IGNORED, Batch, Sequences
from .heads import SceneHeads


class Learner(nn.Module):
    """The model with its throw-away heads."""

    def __init__(self, model: Blip2ForConditionalGeneration, heads: SceneHeads) -> None:
        super().__init__()
        self.model = model
        self.heads = heads

    def look(self, pixels: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vision vectors (B, 1 + P, width) and query vectors of a batch of pictures.

        ``kept`` (B, K) are the numbers of the patches to look at, if not all; then P is K.
        """
        if kept is None:
            vision = self.model.vision_model(pixels).last_hidden_state
        else:
            vision = self._partial_vision(pixels, kept)
        queries = self.model.query_tokens.expand(pixels.shape[0], -1, -1)
        return vision, self.model.qformer(
            query_embeds=queries, encoder_hidden_states=vision
        ).last_hidden_state

    def _partial_vision(self, pixels: Tensor, kept: Tensor) -> Tensor:
        """The vision encoder on some of the patches, each with its own position (FLIP, Li et al. 2023)."""
        tower = self.model.vision_model
        embedded = tower.embeddings(pixels)
        places = kept.unsqueeze(-1).expand(-1, -1, embedded.shape[-1])
        chosen = torch.cat([embedded[:, :1], embedded[:, 1:].gather(1, places)], dim=1)
        hidden: Tensor = tower.post_layernorm(tower.encoder(inputs_embeds=chosen).last_hidden_state)
        return hidden

    def logits(self, queries: Tensor, texts: Sequences) -> tuple[Tensor, Tensor]:
        """Next-token scores at every taught position, and the targets there."""
        seen = self.model.language_projection(queries)[texts.rows]
        words = self.model.get_input_embeddings()(texts.tokens)
        inputs = torch.cat([seen.to(words.dtype), words], dim=1)
        hidden = self.model.language_model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        taught = texts.targets != IGNORED
        scores = self.model.language_model.lm_head(hidden[:, seen.shape[1] :][taught])
        return scores.float(), texts.targets[taught]

    def forward(self, batch: Batch, speak: bool) -> tuple[Tensor, dict[str, float]]:
        vision, queries = self.look(batch.pixels, batch.kept)
        loss, shown = self.heads(vision, queries, batch.truth)
        shown["scene_loss"] = float(loss.detach())
        if speak:
            scores, targets = self.logits(queries, batch.talks)
            talk_loss = functional.cross_entropy(scores, targets)
            said, wanted = self.logits(queries, batch.captions)
            caption_loss = functional.cross_entropy(said, wanted)
            loss = loss + talk_loss + 0.4 * caption_loss
            shown |= {"talk_loss": float(talk_loss.detach()), "caption_loss": float(caption_loss.detach())}
        return loss, shown
