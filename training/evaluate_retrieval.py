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
from .matching import Matcher, similarity
from .retrieval import PROBE_STRENGTH, RETRIEVAL, tokenised

SEED, PICTURES, RANKED, AT_ONCE = 900_017, 1_000, 16, 64


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
    looked = torch.cat(seen)
    texts = tokenised(tokenizer, [*captions, *captions.values()])
    vectors = torch.cat([matcher.pictures(part) for part in looked.split(AT_ONCE)])
    words = matcher.words(texts.rows(torch.arange(PICTURES)))
    likeness = similarity(vectors, words).T  # text by picture
    places = {"itc": [], "itm": []}
    told = []
    for number in range(PICTURES):
        order = likeness[number].argsort(descending=True)
        first = order[:RANKED]
        chance = matcher.match(looked[first], texts.rows(torch.full((RANKED,), number))).softmax(-1)[:, 1]
        ranked = torch.cat([first[chance.argsort(descending=True)], order[RANKED:]])
        for name, found in (("itc", order), ("itm", ranked)):
            places[name].append(int((found == number).nonzero()[0, 0]))
        pair = texts.rows(torch.tensor([number, number + PICTURES]))
        said = matcher.match(looked[[number, number]], pair).argmax(-1)
        told += [bool(said[0] == 1), bool(said[1] == 0)]
    figures = {
        f"{name}_first_{most}": float(np.mean([place < most for place in found]))
        for name, found in places.items()
        for most in (1, 5, 10)
    }
    return {name: round(value, 4) for name, value in (figures | {"told_apart": float(np.mean(told))}).items()}


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
