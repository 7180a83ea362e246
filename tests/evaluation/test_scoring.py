"""Scores are those of the fields' own code: pycocoevalcap's CIDEr-D and BLEU, and the VQA challenge's accuracy.

official/vqa.json holds answers as the challenge's vqaEval.py (GT-Vision-Lab/VQA at a013f00) writes and scores them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blip2_chat.evaluation.scoring import bleu, cider, plain, vqa_accuracy, vqa_plain

WORDS = ["a", "dog", "cat", "red", "apple", "on", "the", "left", "and", "two", "background"]


def by_its_authors(captions: list[str], references: list[list[str]]) -> float:
    pytest.importorskip("pycocoevalcap", reason="needs the extra [dev]: no pycocoevalcap here")
    from pycocoevalcap.cider.cider import Cider

    places = range(len(captions))
    score, _ = Cider().compute_score(
        {at: references[at] for at in places}, {at: [captions[at]] for at in places}
    )
    return float(score)


@pytest.mark.parametrize("seed", range(5))
def test_cider_is_its_authors_own(seed: int) -> None:
    chance = random.Random(seed)

    def caption() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, 9)))

    references = [[caption() for _ in range(chance.randint(1, 4))] for _ in range(12)]
    captions = [chance.choice([caption(), chance.choice(several)]) for several in references]
    assert cider(captions, references) == pytest.approx(by_its_authors(captions, references), abs=1e-9)
    from pycocoevalcap.bleu.bleu import Bleu  # there: the line before needed its package

    places = range(len(captions))
    scores, _ = Bleu(4).compute_score(
        {at: references[at] for at in places}, {at: [captions[at]] for at in places}, verbose=0
    )
    for longest, score in enumerate(scores, 1):
        assert bleu(captions, references, longest) == pytest.approx(score, abs=1e-4)


def test_bleu_of_nothing_and_of_no_match_is_zero() -> None:
    assert bleu([], []) == 0
    assert bleu([""], [["a dog"]]) == 0
    assert bleu(["a dog on a red couch"], [["a dog on a red couch"]]) == pytest.approx(1)
    with pytest.raises(ValueError, match="1 captions and references of 0 pictures"):
        bleu(["a dog"], [])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text("ab ", max_size=12), st.text("ab ", min_size=1, max_size=12)), max_size=6))
def test_cider_takes_any_text(pairs: list[tuple[str, str]]) -> None:
    score = cider([one for one, _ in pairs], [[other] for _, other in pairs])
    assert 0 <= score <= 10.0001
    assert 0 <= bleu([one for one, _ in pairs], [[other] for _, other in pairs]) <= 1.0001


def test_cider_reads_words_not_punctuation_and_capitals() -> None:
    references = [["a dog on the left"], ["two cats"], ["a red apple on the background"]]
    plain_text = cider(["a dog on the left", "two cats", "apple"], references)
    assert cider(["A dog, on the left.", "Two cats!", "apple"], references) == pytest.approx(plain_text)


@pytest.mark.parametrize(
    ("said", "expected"),
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_vqa_accuracy_of_ten_people(said: int, expected: float) -> None:
    people = ["yes"] * said + ["no"] * (10 - said)
    assert vqa_accuracy("yes", people) == pytest.approx(expected)


@pytest.mark.parametrize("people", [1, 2, 3, 4, 10])
def test_an_unanimous_answer_scores_one(people: int) -> None:
    assert vqa_accuracy("yes", ["yes"] * people) == 1.0


def test_vqa_accuracy_sees_through_articles_numbers_and_punctuation() -> None:
    assert vqa_plain("The two dogs, please.") == "2 dogs please"
    assert vqa_accuracy("a dog.", ["dog"]) == 1.0
    assert vqa_accuracy("2", ["two", "three"]) == 1.0
    assert vqa_accuracy("cat", ["dog"]) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("none", "0", True),
        ("10,000", "10000", True),
        ("2.5", "25", False),
        ("2.5 m.", "2.5 m", True),
        ("U.S.", "us", True),
        ("t-shirt", "t shirt", True),
        ("red , white", "red white", True),
        ("black/white!", "black white", True),
        ("50%", "50", False),
        ("dont know", "don't know", True),
        ("12 oclock", "12 o'clock", True),
        ("its", "it's", False),
    ],
)
def test_vqa_answers_are_alike_by_the_rules_of_the_evaluation(one: str, other: str, same: bool) -> None:
    assert (vqa_plain(one) == vqa_plain(other)) is same


def test_exact_match_is_about_words() -> None:
    assert plain("  A dog. ") == plain("a dog") != plain("a dog and a cat")


OFFICIAL = json.loads((Path(__file__).parent / "official" / "vqa.json").read_text(encoding="utf-8"))


def test_answers_are_normalised_as_by_the_challenge() -> None:
    assert len(OFFICIAL["plain"]) > 200
    for text, normalised in OFFICIAL["plain"]:
        assert vqa_plain(text) == normalised, text


def test_answers_are_scored_as_by_the_challenge() -> None:
    assert {0.0, 0.3, 0.6, 0.9, 1.0} <= {round(one["accuracy"], 1) for one in OFFICIAL["accuracy"]}
    for one in OFFICIAL["accuracy"]:
        assert vqa_accuracy(one["answer"], one["people"]) == pytest.approx(one["accuracy"], abs=1e-6), one
