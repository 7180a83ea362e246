"""Scores of answers and captions against what people wrote: exact match, VQA accuracy, CIDEr-D, BLEU-4.

VQA accuracy follows the rules of the VQA challenge's own code (vqaEval.py of GT-Vision-Lab/VQA), CIDEr and BLEU those
of pycocoevalcap, its tokenizer included.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from .ptb_tokenizer import ptb_words

_ARTICLES = {"a", "an", "the"}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_DIGITS)}}
# What the VQA evaluation takes for punctuation: not the full stop, which may be in a number, nor %, $, : and '.
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
# The contractions that it knows. Each is also found without its apostrophe ("dont"); of two apostrophes, without
# either ("couldn'tve", "couldnt've").
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've
why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll you'd you'd've you'll you're you've
"""
# CIDEr-D's longest n-gram and the width of its penalty on length (Vedantam et al. 2015, section 5).
_LONGEST = 4
_SIGMA = 6.0


def _spellings() -> dict[str, str]:
    found: dict[str, str] = {}
    for word in _CONTRACTED.split():
        places = [at for at, letter in enumerate(word) if letter == "'"]
        found |= {word[:at] + word[at + 1 :]: word for at in places}
    # Where the evaluation's own list has it otherwise.
    yall = "y'all'd've"
    found |= {"yall'd've": yall, "y'alld've": yall, "y'all'dve": yall, "somebody'd": "somebodyd"}
    return found | {"ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at"}


_CONTRACTIONS = _spellings()


def plain(text: str) -> str:
    """An answer as exact match compares it: capitals, outer white space and a final full stop aside."""
    return text.strip().lower().rstrip(".").strip()


def vqa_plain(text: str) -> str:
    """An answer as VQA accuracy compares it: small numbers as digits, no articles, contractions with their
    apostrophe. Punctuation becomes a space where it joins words (t-shirt), and nothing next to a space or anywhere in
    an answer with a number such as 10,000."""
    text = _on_one_line(text)
    in_number = re.search(r"\d,\d", text) is not None
    joining = {mark: not (in_number or f"{mark} " in text or f" {mark}" in text) for mark in _MARKS}
    text = "".join(" " * joining[letter] if letter in joining else letter for letter in text)
    # The original passes a flag where `sub` takes a count: it removes the first 32 full stops.
    text = re.sub(r"\.(?!\d)", "", text, count=32)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """min(number of other people who said it / 3, 1), averaged over leaving each person out (Antol et al. 2015).

    As in the challenge's code, answers are compared letter by letter when all people gave the same. The challenge has
    ten people per question. Of three, nobody is left out, or no answer could score 1; with fewer, the answer is right
    if any of them said it.
    """
    people = [_on_one_line(one) for one in people]
    if len(people) < 4:
        said = [vqa_plain(one) == vqa_plain(answer) for one in people]
        return sum(said) / 3 if len(said) == 3 else float(any(said))
    if len(set(people)) > 1:
        said = [vqa_plain(one) == vqa_plain(answer) for one in people]
    else:
        said = [one == _on_one_line(answer) for one in people]
    return sum(min((sum(said) - one) / 3, 1.0) for one in said) / len(said)


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D of captions [N] against one or more references each, 0 to 10 (Vedantam et al. 2015).

    The mean over n-grams of 1 to 4 words of the cosine between tf-idf vectors, clipped and length-penalised. Document
    frequencies are those of the references, so only scores on the same pictures are comparable. Papers print 100
    times this figure.
    """
    _require_same_length(captions, references)
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


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]], longest: int = 4) -> float:
    """Corpus BLEU of captions [N] against one or more references each, 0 to 1 (Papineni et al. 2002): the geometric
    mean of the clipped precisions of n-grams of 1 to `longest` words, times the brevity penalty against the reference
    closest in length (the shorter of two)."""
    _require_same_length(captions, references)
    right, written = [0] * longest, [0] * longest
    length = wanted = 0
    for caption, several in zip(captions, references, strict=True):
        mine = _ngrams(caption, longest)
        most: Counter[tuple[str, ...]] = Counter()
        sizes = []
        for one in several:
            theirs = _ngrams(one, longest)
            most |= theirs
            sizes.append(_words_in(theirs))
        size = _words_in(mine)
        length += size
        wanted += min(sizes, key=lambda other: (abs(other - size), other))
        for gram, count in mine.items():
            right[len(gram) - 1] += min(count, most[gram])
            written[len(gram) - 1] += count
    if not all(right):
        return 0.0
    precision = math.exp(
        sum(math.log(hits / all_) for hits, all_ in zip(right, written, strict=True)) / longest
    )
    return precision * min(1.0, math.exp(1 - wanted / length))


def _require_same_length(captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(captions) != len(references):
        raise ValueError(f"{len(captions)} captions and references of {len(references)} pictures")


def _words_in(grams: Counter[tuple[str, ...]]) -> int:
    return sum(count for gram, count in grams.items() if len(gram) == 1)


def _ngrams(text: str, longest: int = _LONGEST) -> Counter[tuple[str, ...]]:
    words = ptb_words(text)
    return Counter(
        tuple(words[at : at + n]) for n in range(1, longest + 1) for at in range(len(words) - n + 1)
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
