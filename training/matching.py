"""One training step of the retrieval model, through the official modules: contrastive and matching losses.

BLIP-2's first stage (Li et al. 2023, section 3.1) without its captioning loss. Image-text contrast (ITC) compares
the best query vector of a picture with the text's vector; image-text matching (ITM) reads a pair together. Negatives
for ITM are the hardest of the batch by ITC, and the true description with one detail changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Blip2ForImageTextRetrieval

from .concepts import Reading

READING = 0.1  # weight of the reading's loss


@dataclass(frozen=True)
class Texts:
    """Token ids and mask, (N, T) each."""

    ids: Tensor
    mask: Tensor

    def rows(self, chosen: Tensor) -> Texts:
        return Texts(self.ids[chosen], self.mask[chosen])


@dataclass(frozen=True)
class Pairs:
    """B pictures, 2B texts (a true one for each picture, then each with one detail changed), and which text is
    true of which picture: ``truth`` (B, 2B) is 1, 0, or -1 where it cannot be told. ``pictures`` is what the encoder
    saw (B, 1 + P, width), or pixels that are still to be looked at."""

    pictures: Tensor
    texts: Texts
    truth: Tensor
    shown: Tensor  # (B, C) what the pictures show and
    said: Tensor  # (2B, C) what the texts say, see `concepts`


class Matcher(nn.Module):
    """The model, and what the checkpoint does not keep: the temperature of the contrastive loss, and the reading."""

    def __init__(self, model: Blip2ForImageTextRetrieval) -> None:
        super().__init__()
        self.model = model
        self.log_scale = nn.Parameter(torch.tensor(2.66))  # 1 / 0.07, as in CLIP
        self.reading = Reading(model.config.image_text_hidden_size)

    @torch.no_grad()
    def look(self, pixels: Tensor) -> Tensor:
        """(B, 1 + P, width) from the picture encoder, which does not learn here."""
        seen: Tensor = self.model.vision_model(pixels).last_hidden_state
        return seen

    def pictures(self, seen: Tensor) -> Tensor:
        """(B, Q, E) of length one."""
        queries = self.model.query_tokens.expand(len(seen), -1, -1)
        hidden = self.model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        return functional.normalize(self.model.vision_projection(hidden), dim=-1)

    def words(self, texts: Texts) -> Tensor:
        """(N, E) of length one."""
        embedded = self.model.embeddings(input_ids=texts.ids)
        hidden = self.model.qformer(
            query_embeds=embedded, query_length=0, attention_mask=texts.mask
        ).last_hidden_state
        return functional.normalize(self.model.text_projection(hidden[:, 0]), dim=-1)

    def match(self, seen: Tensor, texts: Texts) -> Tensor:
        """Logits (N, 2) of "does not match" and "matches" for N pairs."""
        queries = self.model.query_tokens.expand(len(seen), -1, -1)
        embedded = self.model.embeddings(input_ids=texts.ids, query_embeds=queries)
        mask = torch.cat([torch.ones(queries.shape[:2], dtype=texts.mask.dtype), texts.mask], dim=1)
        hidden = self.model.qformer(
            query_embeds=embedded,
            query_length=queries.shape[1],
            attention_mask=mask,
            encoder_hidden_states=seen,
        ).last_hidden_state
        logits: Tensor = self.model.itm_head(hidden[:, : queries.shape[1]]).mean(dim=1)
        return logits

    def forward(self, pairs: Pairs, seed: int) -> tuple[Tensor, dict[str, float]]:
        seen = pairs.pictures
        count = len(seen)
        pictures, texts = self.pictures(seen), self.words(pairs.texts)
        read = self.reading.loss(pictures, pairs.shown) + self.reading.loss(texts, pairs.said)
        likeness = similarity(pictures, texts)
        scores = likeness * self.log_scale.clamp(max=4.6).exp()
        contrast = _contrast(scores, pairs.truth) + _contrast(scores.T[:count], pairs.truth.T[:count])
        matched, wanted, logits = self._matching(seen, pairs, likeness.detach(), seed)
        hardest = likeness.detach().masked_fill(pairs.truth != 0, -2.0).max(dim=1).values
        shown = {
            "read": float(read.detach()) / 2,
            "itc": float(contrast.detach()) / 2,
            "itm": float(matched.detach()),
            "itm_right": float((logits.argmax(-1) == wanted).float().mean()),
            "itc_right": float((likeness.detach().diagonal() > hardest).float().mean()),
        }
        return contrast / 2 + matched + read * READING, shown

    def _matching(
        self, seen: Tensor, pairs: Pairs, likeness: Tensor, seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """For half of the pictures: the true text, the changed one, and for the text a wrong picture like it."""
        count = len(seen)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(count, generator=generator)[: count // 2]
        scores = (likeness[:, rows] * 20).masked_fill(pairs.truth[:, rows] != 0, -1e4).T
        other = torch.multinomial(scores.softmax(dim=-1) + 1e-9, 1, generator=generator)[:, 0]
        clear = pairs.truth[other, rows] == 0
        pictures = torch.cat([rows, rows, other[clear]])
        texts = torch.cat([rows, rows + count, rows[clear]])
        wanted = torch.cat(
            [torch.ones(len(rows)), torch.zeros(len(rows)), torch.zeros(int(clear.sum()))]
        ).long()
        logits = self.match(seen[pictures], pairs.texts.rows(texts))
        return functional.cross_entropy(logits, wanted, weight=torch.tensor([1.0, 1.5])), wanted, logits


def similarity(pictures: Tensor, texts: Tensor) -> Tensor:
    """ITC's score (B, N) of pictures (B, Q, E) and texts (N, E): the best of the query vectors."""
    return torch.einsum("bqe,ne->bqn", pictures, texts).amax(dim=1)


def _contrast(scores: Tensor, truth: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy with a row's true columns; undecided columns are left out."""
    logs = scores.masked_fill(truth < 0, -1e4).log_softmax(dim=-1)
    right = (truth == 1).float()
    return -((logs * right).sum(dim=-1) / right.sum(dim=-1).clamp(min=1)).mean()
