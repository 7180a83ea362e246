"""Measure the shipped retrieval model: ``python -m training.evaluate_retrieval``.

A thousand pictures of which no two show the same things on the same background, from seeds that training never
uses, in drawing styles that it has seen and in one that it has not: how often a complete caption finds its picture
first, or among the first ten, by ITC alone and after ITM has put the first ``RANKED`` in order, as in the paper; and
how often ITM tells a caption from the same one with one detail changed. The model is run by transformers.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import BertTokenizerFast, Blip2ForImageTextRetrieval

from .batches import to_pixels
from .descriptions import changed, describe
from .icons import IconStore
from .kept_pictures import drawn
from .matching import Matcher
from .ranking import AT_ONCE, orders
from .retrieval import PROBE_STRENGTH, RANKED, RETRIEVAL, tokenised

SEED, PICTURES = 900_017, 1_000


@torch.no_grad()
def measure(matcher: Matcher, tokenizer: BertTokenizerFast, held_out: bool) -> dict[str, float]:
    """Shares, each of ``PICTURES`` captions."""
    rng = np.random.default_rng(SEED)
    captions: dict[str, str] = {}
    known = set()
    seen: list[Tensor] = []
    waiting = []
    for one, truth in drawn(IconStore.load(), SEED, 0, 3 * PICTURES, PROBE_STRENGTH, held_out):
        key = (tuple(sorted(truth.counts.items())), truth.ground)
        if key in known:
            continue
        known.add(key)
        right = replace(describe(truth, rng, whole=1.0), ground=truth.ground)
        captions[right.text] = changed(right, truth, rng).text
        waiting.append(one.picture)
        if len(waiting) == AT_ONCE or len(captions) == PICTURES:
            seen.append(matcher.look(to_pixels(waiting)))
            waiting = []
        if len(captions) == PICTURES:
            break
    texts = tokenised(tokenizer, [*captions, *captions.values()])
    found = orders(matcher, torch.cat(seen), texts, RANKED)
    own = torch.arange(PICTURES)[:, None]
    figures = {
        f"{name}_first_{most}": (order[:, :most] == own).any(dim=1)
        for name, order in (("itc", found.itc), ("itm", found.itm))
        for most in (1, 5, 10)
    }
    figures["told_apart"] = found.told_apart
    return {name: round(float(right.float().mean()), 4) for name, right in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=RETRIEVAL)
    folder = parser.parse_args().folder
    model = Blip2ForImageTextRetrieval.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    for held_out in (False, True):
        found = measure(Matcher(model), tokenizer, held_out)
        print(json.dumps({"set": "unseen" if held_out else "seen", "pictures": PICTURES} | found), flush=True)


if __name__ == "__main__":
    main()
