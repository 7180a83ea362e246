"""How a retrieval model orders pictures for texts: what both the probe of a run and the final measurement count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .matching import Matcher, Texts, similarity

AT_ONCE = 64


@dataclass(frozen=True)
class Orders:
    """For N pictures and their N texts: pictures (N, N) for each text, the best first, by ITC, and with the first of
    them put in order by ITM; and (2N) whether ITM takes each true text for true, and each changed one for false."""

    itc: Tensor
    itm: Tensor
    told_apart: Tensor


@torch.no_grad()
def orders(matcher: Matcher, seen: Tensor, texts: Texts, ranked: int) -> Orders:
    """``seen``: (N, 1 + P, width) from the encoder. ``texts``: a true one for each, then each with one detail
    changed. ``ranked``: how many ITM reads."""
    count = len(seen)
    pictures = torch.cat([matcher.pictures(part) for part in seen.split(AT_ONCE)])
    words = matcher.words(texts.rows(torch.arange(count)))
    itc = similarity(pictures, words).T.argsort(dim=-1, descending=True, stable=True)
    itm, told = itc.clone(), []
    for text in range(count):
        first = itc[text, :ranked]
        chance = matcher.match(seen[first], texts.rows(torch.full((len(first),), text))).softmax(-1)[:, 1]
        itm[text, :ranked] = first[chance.argsort(descending=True, stable=True)]
        both = texts.rows(torch.tensor([text, text + count]))
        told.append(matcher.match(seen[[text, text]], both).argmax(-1) == torch.tensor([1, 0]))
    return Orders(itc, itm, torch.cat(told))
