"""How answers and captions are scored against what people said: exact match, VQA accuracy, CIDEr-D."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_ARTICLES = {"a", "an", "the"}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_DIGITS)}}
# What the VQA evaluation takes for punctuation: not the full stop, which may be in a number, nor %, $ and :.
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTED = (
    "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't he's isn't o'clock shouldn't that's "
    "there's they're wasn't weren't what's where's who's won't wouldn't you're"
)
_CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}
# CIDEr-D's longest n-gram and the width of its penalty on length (Vedantam et al. 2015, section 5).
_LONGEST = 4
_SIGMA = 6.0


def plain(text: str) -> str:
    """An answer as exact match compares it: capitals, outer white space and a final full stop aside."""
    return text.strip().lower().rstrip(".").strip()


def vqa_plain(text: str) -> str:
    """An answer as VQA accuracy compares it, by the rules of that evaluation's own code: small numbers as digits,
    no articles, contractions with their apostrophe. Punctuation leaves a space where it joins words (t-shirt),
    and none beside a space or in a number (10,000)."""
    text = " ".join(text.lower().split())
    in_number = re.search(r"\d,\d", text) is not None
    joining = {mark: not (in_number or f"{mark} " in text or f" {mark}" in text) for mark in _MARKS}
    text = "".join(" " * joining[letter] if letter in joining else letter for letter in text)
    words = [_NUMBERS.get(word, word) for word in re.sub(r"\.(?!\d)", "", text).split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """min(number of people who said it / 3, 1), averaged over leaving one of them out (Antol et al. 2015).

    Of three people none can be left out, or no answer would count whole. With fewer there is nobody to agree with:
    whether any of them said it.
    """
    given = vqa_plain(answer)
    said = [vqa_plain(one) == given for one in people]
    if len(said) < 3:
        return float(any(said))
    if len(said) == 3:
        return sum(said) / 3
    return sum(min((sum(said) - one) / 3, 1.0) for one in said) / len(said)


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D of captions [N] against one or more references each, 0 to 10 (Vedantam et al. 2015).

    The mean over n-grams of 1 to 4 words of the cosine between tf-idf vectors, clipped and length-penalised. Words
    are what white space and punctuation separate, in lower case. Document frequencies are those of the
    references, so the figure compares captions of one set and not of two.
    """
    if len(captions) != len(references):
        raise ValueError(f"{len(captions)} captions and references of {len(references)} pictures")
    cooked = [[_ngrams(one) for one in several] for several in references]
    documents: Counter[tuple[str, ...]] = Counter()
    for several in cooked:
        documents.update({gram for grams in several for gram in grams})
    total = math.log(max(len(references), 1))

    def weighed(grams: Counter[tuple[str, ...]]) -> list[dict[tuple[str, ...], float]]:
        """Per length of n-gram its tf-idf vector."""
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(_LONGEST)]
        for gram, count in grams.items():
            vectors[len(gram) - 1][gram] = count * (total - math.log(max(1, documents[gram])))
        return vectors

    scores = []
    for caption, several in zip(captions, cooked, strict=True):
        mine = _ngrams(caption)
        likeness = [_likeness(mine, weighed(mine), theirs, weighed(theirs)) for theirs in several]
        scores.append(10 * sum(likeness) / len(likeness))
    return sum(scores) / len(scores) if scores else 0.0


def _ngrams(text: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"[\w']+", text.lower())
    return Counter(
        tuple(words[at : at + n]) for n in range(1, _LONGEST + 1) for at in range(len(words) - n + 1)
    )


def _likeness(
    mine: Counter[tuple[str, ...]],
    my_vectors: list[dict[tuple[str, ...], float]],
    theirs: Counter[tuple[str, ...]],
    their_vectors: list[dict[tuple[str, ...], float]],
) -> float:
    """Mean over n of the clipped cosine, times the penalty for another length."""
    lengths = [sum(count for gram, count in grams.items() if len(gram) == 2) for grams in (mine, theirs)]
    penalty = math.exp(-((lengths[0] - lengths[1]) ** 2) / (2 * _SIGMA**2))
    total = 0.0
    for one, other in zip(my_vectors, their_vectors, strict=True):
        product = sum(min(weight, other[gram]) * other[gram] for gram, weight in one.items() if gram in other)
        size = math.hypot(*one.values()) * math.hypot(*other.values())
        total += product / size if size else 0.0
    return total * penalty / _LONGEST
