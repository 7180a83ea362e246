"""The training data tells the truth: answers agree with where things were placed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from training import scenes
from training.backgrounds import COLOURS
from training.batches import IGNORED, SceneBatches, Writer
from training.catalog import KINDS, SETS, plain_name
from training.icons import ICON_SIZE, IconStore
from training.questions import COUNTS, NOTHING, Asker, beside, caption, listing, outermost
from training.scenes import Placed, Scene
from training.tokenizer import BOS_ID, build_tokenizer, newline_id


@pytest.fixture(scope="module")
def store() -> IconStore:
    """Plain coloured discs instead of the real drawings: six kinds, two training sets and the unseen one."""
    y, x = np.mgrid[0:ICON_SIZE, 0:ICON_SIZE]
    disc = ((x - 64) ** 2 + (y - 64) ** 2 < 60**2).astype(np.uint8) * 255
    unseen = next(i for i, one in enumerate(SETS) if one.held_out)
    drawings, kinds, sets = [], [], []
    for set_index in (0, 1, unseen):
        for kind in range(6):
            drawing = np.zeros((ICON_SIZE, ICON_SIZE, 4), np.uint8)
            drawing[..., kind % 3] = 60 + 20 * kind
            drawing[..., 3] = disc
            drawings.append(drawing)
            kinds.append(kind)
            sets.append(set_index)
    return IconStore(np.stack(drawings), np.array(kinds), np.array(sets))


def rng(number: int) -> np.random.Generator:
    return np.random.default_rng((3, number))


def test_catalogue_is_plain() -> None:
    assert len(KINDS) >= 40
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert sum(one.held_out for one in SETS) == 1
    assert {"SA" in one.licence for one in SETS} == {False}
    assert plain_name("penguin-2") == "penguin"
    assert plain_name("soft-ice-cream") == "softicecream"


def test_plans_keep_things_apart_and_in_order(store: IconStore) -> None:
    table = store.table(held_out=False)
    for number in range(200):
        scene = scenes.plan(table, rng(number))
        assert 0 <= len(scene.things) <= scenes.MAX_THINGS
        xs = [thing.x for thing in scene.things]
        assert all(b - a >= scenes.MIN_STEP for a, b in itertools.pairwise(xs))
        assert all(store.kinds[thing.icon] == thing.kind for thing in scene.things)


def test_the_unseen_style_is_never_planned_for_training(store: IconStore) -> None:
    seen, unseen = store.table(held_out=False), store.table(held_out=True)
    assert not set(seen) & set(unseen)
    assert all(not SETS[index].held_out for index in seen)
    assert all(SETS[index].held_out for index in unseen)


def test_same_seed_same_picture(store: IconStore) -> None:
    table = store.table(held_out=False)
    first, second = (scenes.draw(scenes.plan(table, rng(5)), store, rng(6)) for _ in range(2))
    assert first.picture.tobytes() == second.picture.tobytes()
    assert first.picture.size == (scenes.IMAGE_SIZE, scenes.IMAGE_SIZE)
    assert (first.patches.kind == second.patches.kind).all()
    assert first.colours == second.colours


def test_patch_labels_name_what_is_drawn(store: IconStore) -> None:
    scene = Scene((Placed(2, 2, 0.25, 0.25, 0.4), Placed(4, 4, 0.75, 0.75, 0.4)), 3)
    labels = scenes.draw(scene, store, rng(1), strength=0.0).patches
    cells = scenes.IMAGE_SIZE // scenes.PATCH
    grid = labels.kind.reshape(cells, cells)
    assert grid[2, 2] == 3 and grid[7, 7] == 5
    assert grid[0, 9] == 0 and grid[9, 0] == 0
    assert set(grid.flatten().tolist()) <= {0, 3, 5, -100}
    belongs = labels.thing.reshape(cells, cells)
    assert belongs[2, 2] == 0 and belongs[7, 7] == 1 and belongs[0, 9] == -100


DOG, CAT, APPLE = 0, 1, [kind.name for kind in KINDS].index("apple")
THREE = Scene(
    (Placed(DOG, 0, 0.2, 0.8, 0.2), Placed(APPLE, 1, 0.5, 0.2, 0.2), Placed(DOG, 0, 0.8, 0.5, 0.2)),
    [colour.name for colour in COLOURS].index("orange"),
)


def test_captions_group_and_order() -> None:
    assert listing(THREE) == "two dogs and an apple"
    assert caption(THREE) == "two dogs and an apple on an orange background"


def test_outermost_needs_a_clear_gap() -> None:
    assert outermost(THREE, "left") is THREE.things[0]
    assert outermost(THREE, "right") is THREE.things[2]
    assert outermost(THREE, "top") is THREE.things[1]
    level = Scene((Placed(DOG, 0, 0.2, 0.5, 0.2), Placed(CAT, 1, 0.28, 0.9, 0.2)), 0)
    assert outermost(level, "left") is None
    assert outermost(level, "right") is None  # nothing lies in the right half


def test_beside_is_one_thing_or_nothing_or_unclear() -> None:
    dog, apple, other = THREE.things
    assert beside(THREE, dog, "left") == (True, None)
    assert beside(THREE, dog, "top") == (False, None)  # two things are above it
    assert beside(THREE, other, "top") == (True, apple)
    assert beside(THREE, other, "bottom") == (True, dog)
    near = Scene((Placed(DOG, 0, 0.2, 0.5, 0.2), Placed(CAT, 1, 0.8, 0.58, 0.2)), 0)
    assert beside(near, near.things[0], "bottom")[0] is False


def test_answers_agree_with_the_scene(store: IconStore) -> None:
    table = store.table(held_out=False)
    for number in range(150):
        scene = scenes.plan(table, rng(number))
        present = {KINDS[thing.kind].name for thing in scene.things}
        names = {KINDS[thing.kind].phrase for thing in scene.things}
        for turn in Asker(scene, rng(number)).conversation(6):
            if turn.task == "count":
                assert turn.answer == COUNTS[len(scene.things)]
            elif turn.task == "background":
                assert turn.answer == scene.colour_name
            elif turn.task == "is-there":
                assert turn.about_kind is not None
                assert (turn.answer == "yes") == (KINDS[turn.about_kind].name in present)
            elif turn.task in ("left", "right", "top", "bottom"):
                assert turn.answer in names | {NOTHING}
            elif turn.task in ("relation", "follow-up"):
                answers = names | {NOTHING, "yes", "no"} | set(COUNTS) | {one.name for one in COLOURS}
                assert turn.answer in answers or turn.answer.startswith("there is no ")


def test_only_answers_are_taught_each_with_its_stop() -> None:
    tokenizer = build_tokenizer()
    writer, stop = Writer(tokenizer), newline_id(tokenizer)
    asker = Asker(THREE, rng(9))
    turns = asker.conversation(3)
    tokens, targets = writer.conversation(turns)
    assert len(tokens) == len(targets)
    assert tokens[0] == BOS_ID
    taught = [token for token in targets if token != IGNORED]
    answers = tokenizer.decode(taught).split("\n")
    assert answers == [f" {turn.answer}" for turn in turns] + [""]
    for token, target, following in zip(tokens, targets, tokens[1:], strict=False):
        assert token >= 0 and (target in (IGNORED, stop) or target == following)


def test_the_tokenizer_writes_any_text_and_starts_like_opt() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer) <= 1000
    text = "Question: ¿Qué es esto? 犬\tAnswer: \U0001f415"
    tokens = tokenizer.encode(text)
    assert tokens[0] == BOS_ID
    assert tokenizer.decode(tokens[1:]) == text


def test_batches_are_repeatable(store: IconStore) -> None:
    batches = SceneBatches(store, build_tokenizer(), seed=1, size=4)
    first, second = batches[3], batches[3]
    assert (first.pixels == second.pixels).all()
    assert (first.talks.tokens == second.talks.tokens).all()
    assert first.pixels.shape == (4, 3, scenes.IMAGE_SIZE, scenes.IMAGE_SIZE)
    assert first.talks.tokens.shape == first.talks.targets.shape
    assert first.truth.slots.shape == (4, 2 * scenes.MAX_THINGS)
