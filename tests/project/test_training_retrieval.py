"""What the retrieval model is taught is true, and its losses see what the official module computes."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Blip2Config, Blip2ForImageTextRetrieval

from tests.support.drawings import discs
from training import concepts, scenes
from training.backgrounds import COLOURS
from training.catalog import KINDS
from training.descriptions import Described, Description, changed, describe
from training.icons import IconStore
from training.matching import Matcher, _contrast, similarity
from training.retrieval import DrawnPairs
from training.wordpiece import build_wordpiece

RED, BLUE = ([colour.name for colour in COLOURS].index(name) for name in ("red", "blue"))
DOG, CAT, APPLE = ([kind.name for kind in KINDS].index(name) for name in ("dog", "cat", "apple"))
TWO_DOGS_AND_A_RED_APPLE = Described({DOG: 2, APPLE: 1}, BLUE, {APPLE: RED})


@pytest.fixture(scope="module")
def store() -> IconStore:
    return discs()


@pytest.mark.parametrize(
    ("parts", "whole", "ground", "text", "fits"),
    [
        (((DOG, 2, None), (APPLE, 1, None)), True, BLUE, "two dogs and an apple on a blue background", True),
        (((DOG, 2, None), (APPLE, 1, None)), True, RED, "two dogs and an apple on a red background", False),
        (((DOG, 2, None),), True, None, "two dogs", False),
        (((DOG, 2, None),), False, None, "two dogs", True),
        (((DOG, 1, None),), False, None, "a dog", True),
        (((DOG, 3, None),), False, None, "three dogs", False),
        (((CAT, 1, None),), False, None, "a cat", False),
        (((APPLE, 1, RED),), False, None, "a red apple", True),
        (((APPLE, 1, BLUE),), False, None, "a blue apple", False),
        (((DOG, 2, RED),), False, None, "two red dogs", None),
    ],
)
def test_a_description_is_checked_against_a_scene(
    parts: tuple[tuple[int, int, int | None], ...],
    whole: bool,
    ground: int | None,
    text: str,
    fits: bool | None,
) -> None:
    description = Description(parts, whole, ground)
    assert description.text == text
    assert description.fits(TWO_DOGS_AND_A_RED_APPLE) is fits


def test_true_descriptions_are_true_and_changed_ones_are_not(store: IconStore) -> None:
    table = store.table(held_out=False)
    for number in range(300):
        rng = np.random.default_rng((5, number))
        scene = scenes.plan(table, rng)
        colours = [int(rng.integers(len(COLOURS))) for _ in scene.things]
        seen = Described.of(scene, colours)
        right = describe(seen, rng)
        wrong = changed(right, seen, rng)
        assert right.fits(seen) and wrong.fits(seen) is False
        assert right.text != wrong.text


def test_words_are_single_tokens_and_anything_can_be_written(tmp_path: Path) -> None:
    tokenizer = build_wordpiece(tmp_path)
    words = ["two", "red", "dogs", "on", "a", "blue", "background"]
    assert tokenizer.tokenize("Two RED dogs on a blue background") == words
    assert "[UNK]" not in tokenizer.tokenize("a zebra, 7 quilts & a xylophone?")
    assert (tmp_path / "vocab.txt").read_text().splitlines()[:4] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def test_losses_see_what_the_official_module_computes(store: IconStore, tmp_path: Path) -> None:
    tokenizer = build_wordpiece(tmp_path)
    torch.manual_seed(3)
    config = Blip2Config(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": scenes.IMAGE_SIZE, "patch_size": scenes.PATCH,
        },
        qformer_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "encoder_hidden_size": 32, "vocab_size": len(tokenizer), "use_qformer_text_input": True,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        },
        num_query_tokens=4,
        image_text_hidden_size=16,
        image_token_index=None,
    )  # fmt: skip
    model = Blip2ForImageTextRetrieval(config).eval()
    with torch.no_grad():
        model.query_tokens.normal_()
    matcher = Matcher(model)
    pairs = DrawnPairs(store, tokenizer, 1, 4, 0.3)[0]
    assert pairs.truth.diagonal().tolist() == [1] * 4 and pairs.truth[:, 4:].diagonal().tolist() == [0] * 4
    with torch.no_grad():
        seen = matcher.look(pairs.pictures)
        ours = similarity(matcher.pictures(seen), matcher.words(pairs.texts))
        official = model(pairs.pictures, pairs.texts.ids, pairs.texts.mask)
        assert torch.allclose(ours, official.logits_per_image, atol=1e-5)
        four = pairs.texts.rows(torch.arange(4))
        matched = model(pairs.pictures, four.ids, four.mask, use_image_text_matching_head=True)
        assert torch.allclose(matcher.match(seen, four), matched.logits_per_image, atol=1e-5)


def test_undecided_pairs_are_no_negatives() -> None:
    """A pair that cannot be told true or false does not enter the contrastive loss."""
    scores = torch.tensor([[2.0, 1.0, 5.0], [0.0, 3.0, -1.0]])
    truth = torch.tensor([[1, 0, -1], [0, 1, 0]])
    first = -torch.tensor([2.0, 1.0]).log_softmax(0)[0]
    second = -torch.tensor([0.0, 3.0, -1.0]).log_softmax(0)[1]
    assert torch.allclose(_contrast(scores, truth), (first + second) / 2)


def test_true_descriptions_say_nothing_that_is_not_shown(store: IconStore) -> None:
    """What the vectors of texts are taught to hold is part of what those of their pictures are."""
    shown = concepts.of_pictures([TWO_DOGS_AND_A_RED_APPLE])[0]
    assert shown.sum() == 2 + 1 + 1 + 1  # at least one and two dogs, an apple, something red, the background
    table = store.table(held_out=False)
    for number in range(50):
        rng = np.random.default_rng((6, number))
        scene = scenes.plan(table, rng)
        seen = Described.of(scene, [int(rng.integers(len(COLOURS))) for _ in scene.things])
        right = describe(seen, rng)
        said, true = concepts.of_texts([right])[0], concepts.of_pictures([seen])[0]
        assert (said <= true).all(), right.text
        wrong = concepts.of_texts([changed(right, seen, rng)])[0]
        assert not torch.equal(said, wrong)
