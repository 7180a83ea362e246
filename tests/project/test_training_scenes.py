"""The training data tells the truth: answers agree with where things were placed."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.drawings import discs
from training import checkpoints, scenes
from training.backgrounds import COLOURS
from training.batches import IGNORED, LEAST_GROUND, SceneBatches, Writer, patches_to_keep
from training.catalog import ALIKE, KINDS, SETS, plain_name
from training.colours import plain_colour
from training.heads import SceneHeads
from training.icons import IconStore
from training.losses import Learner
from training.model import Shape, build_model
from training.optimiser import Muon, orthogonalised
from training.questions import COUNTS, NOTHING, Asker, beside, caption, listing, outermost
from training.run import Options
from training.scenes import Placed, Scene
from training.tokenizer import BOS_ID, build_tokenizer, newline_id


@pytest.fixture(scope="module")
def store() -> IconStore:
    return discs()


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


def test_the_held_out_style_is_never_used_for_training(store: IconStore) -> None:
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
    near, far, last = cells // 4, 3 * cells // 4, cells - 1
    assert grid[near, near] == 3 and grid[far, far] == 5
    assert grid[0, last] == 0 and grid[last, 0] == 0
    assert set(grid.flatten().tolist()) <= {0, 3, 5, -100}
    belongs = labels.thing.reshape(cells, cells)
    assert belongs[near, near] == 0 and belongs[far, far] == 1 and belongs[0, last] == -100


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


def test_questions_about_neighbours_have_one_answer_or_none() -> None:
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


RED, GREEN = ([colour.name for colour in COLOURS].index(name) for name in ("red", "green"))


def asked(scene: Scene, task: str, colours: tuple[int | None, ...] = ()) -> dict[str, str]:
    """Many questions of one task about a scene, in lower case without final punctuation → answers."""
    found: dict[str, str] = {}
    for number in range(400):
        for turn in Asker(scene, rng(number), colours).conversation(1, task):
            found[turn.question.lower().rstrip("?.")] = turn.answer
    return found


def test_colours_are_named_only_where_they_are_plain() -> None:
    def block(*shades: tuple[int, int, int]) -> np.ndarray:
        return np.repeat(np.array(shades, np.uint8), 50, axis=0)

    assert plain_colour(block((220, 20, 30))) == RED
    assert plain_colour(block((30, 160, 60), (30, 160, 60), (20, 20, 20))) == GREEN
    assert plain_colour(block((220, 20, 30), (30, 160, 60))) is None  # half and half
    assert plain_colour(block((195, 230, 40))) is None  # between yellow and green


def test_single_colour_drawings_are_seen_in_their_colour(store: IconStore) -> None:
    scene = Scene((Placed(2, 2, 0.3, 0.5, 0.4, RED), Placed(4, 4, 0.7, 0.5, 0.4, GREEN)), 0)
    seen = [scenes.draw(scene, store, rng(number), strength=0.0).colours for number in range(10)]
    assert (RED, GREEN) in seen
    # the discs are all line: those drawn with dark or white lines are seen as that
    lines = {index for index, one in enumerate(COLOURS) if one.name in ("black", "grey", "white")}
    assert {colours[0] for colours in seen} <= {RED, None} | lines


def test_questions_about_colours_name_the_colour_seen_or_say_that_there_is_none() -> None:
    pair = Scene((Placed(DOG, 0, 0.2, 0.5, 0.2), Placed(APPLE, 1, 0.8, 0.5, 0.2)), 0)
    answers = asked(pair, "colour", (None, RED))
    assert answers["what colour is the apple"] == "red"
    assert "what colour is the dog" not in answers  # of several colours
    others = {answer for answer in answers.values() if answer != "red"}
    assert others and all(answer.startswith("there is no ") for answer in others)
    assert not others & {"there is no dog", "there is no apple"}
    yes_or_no = asked(pair, "is-colour", (None, RED))
    assert yes_or_no["is the apple red"] == "yes" and yes_or_no["is the apple green"] == "no"


def test_groups_are_counted_by_what_belongs_to_them() -> None:
    answers = asked(THREE, "count-group")
    assert answers["how many animals are there"] == "two"
    assert answers["how many fruits are there"] == "one"
    assert answers["how many vehicles are there"] == "none"
    assert asked(THREE, "is-there-group")["are there any vehicles"] == "no"


def test_yes_or_no_about_places() -> None:
    pair = Scene((Placed(DOG, 0, 0.2, 0.5, 0.2), Placed(APPLE, 1, 0.8, 0.5, 0.2)), 0)
    compared = asked(pair, "compare")
    assert compared["is the dog left of the apple"] == "yes"
    assert compared["is the apple to the left of the dog"] == "no"
    assert not any("above" in question for question in compared)  # level: not plain to see
    placed = asked(pair, "place")
    assert placed["is there a dog on the left"] == "yes" and placed["is there a dog on the right"] == "no"


def test_honest_answers_about_what_is_not_there() -> None:
    empty = Scene((), 3)
    assert caption(empty) == f"nothing on a {COLOURS[3].name} background"
    assert set(asked(empty, "what").values()) == {NOTHING}
    assert set(asked(empty, "count").values()) == {"none"}
    one = Scene((Placed(DOG, 0, 0.2, 0.5, 0.2),), 0)
    assert asked(one, "side")["what is on the right"] == NOTHING
    assert asked(one, "side")["what is on the left"] == "a dog"


def test_yes_and_no_are_balanced_and_no_is_hard(store: IconStore) -> None:
    table, yes, no, hard = store.table(held_out=False), 0, 0, 0
    for number in range(300):
        scene = scenes.plan(table, rng(number), count=2)
        (turn,) = Asker(scene, rng(number)).conversation(1, "is-there")
        yes, no = yes + (turn.answer == "yes"), no + (turn.answer == "no")
        hard += turn.answer == "no" and any(turn.about_kind in ALIKE[thing.kind] for thing in scene.things)
    assert 0.4 < yes / (yes + no) < 0.6
    assert hard > 0.5 * no


def test_an_interrupted_checkpoint_is_ignored(tmp_path: Path) -> None:
    def saved(step: int, ranks: int) -> None:
        folder = checkpoints.step_folder(tmp_path, step)
        for rank in range(ranks):
            checkpoints.write(folder / checkpoints.optimiser_file(rank), {})
        checkpoints.write(folder / checkpoints.WEIGHTS, {"processes": 2})

    saved(10, 2)
    saved(20, 2)
    saved(30, 1)  # killed before the second process had written its share
    assert [folder.name for folder in checkpoints.complete(tmp_path)] == ["step-0000010", "step-0000020"]
    saved(40, 2)
    checkpoints.remove_old(tmp_path)
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == ["step-0000020", "step-0000040"]


def test_muon_orthogonalises_in_float32() -> None:
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalised(matrix)
    assert found.dtype == torch.float32
    # Muon's polynomial brings every singular value near one, and keeps the singular vectors
    values = torch.diagonal(u.T @ found @ v.T)
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    assert torch.allclose(found, (u * values) @ v, atol=1e-4)


def test_decay_bounds_matrices_that_learn_from_noise() -> None:
    """With too little decay they grow tenfold by chance alone, until attention saturates."""
    options, generator = Options(), torch.Generator().manual_seed(2)
    matrix = torch.nn.Parameter(0.02 * torch.randn(48, 48, generator=generator))
    muon = Muon([matrix], options.matrix_decay)
    muon.param_groups[0]["lr"] = options.peak_rate * options.matrix_rate
    for _ in range(1000):
        matrix.grad = torch.randn(48, 48, generator=generator)
        muon.step()
    assert 0.03 < float(matrix.detach().square().mean().sqrt()) < 0.1


def test_the_rate_stays_then_falls_whenever_the_run_is_made_to_end() -> None:
    options = Options(warm_up=0.01, cool_down=0.25)
    assert options.rate(0.0) < 0.2 * options.peak_rate
    assert options.rate(0.01) == options.rate(0.75) == options.peak_rate
    assert options.rate(0.875) == pytest.approx(0.5 * options.peak_rate)
    assert options.rate(1.0) == pytest.approx(0.01 * options.peak_rate)
    assert options.kept(0.7) == options.keep and options.kept(0.76) == 0


def test_kept_patches_are_those_that_show_things_and_some_ground() -> None:
    kinds = np.zeros(100, np.int64)
    kinds[20:60], kinds[60:63] = 5, IGNORED
    kept = patches_to_keep(kinds, 56, rng(1))
    assert len(set(kept.tolist())) == 56
    assert set(range(20, 63)) <= set(kept.tolist())
    full = patches_to_keep(np.ones(100, np.int64), 56, rng(2))
    assert len(set(full.tolist())) == 56
    crowded = patches_to_keep(np.where(np.arange(100) < 80, 3, 0), 56, rng(3))
    assert (crowded >= 80).sum() == LEAST_GROUND


def test_looking_at_kept_patches_is_looking_with_the_official_module() -> None:
    shape = Shape(32, 1, 32, 2, 32, 1, 16)
    learner = Learner(build_model(7, 300, shape, 1), SceneHeads(32, 32)).eval()
    pixels = torch.randn(
        2, 3, scenes.IMAGE_SIZE, scenes.IMAGE_SIZE, generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        vision, queries = learner.look(pixels)
        again, asked = learner.look(pixels, torch.arange(vision.shape[1] - 1).expand(2, -1))
        order = torch.randperm(vision.shape[1] - 1, generator=torch.Generator().manual_seed(4))
        shuffled, _ = learner.look(pixels, order.expand(2, -1))
    assert torch.allclose(vision, again, atol=1e-5) and torch.allclose(queries, asked, atol=1e-5)
    assert torch.allclose(vision[:, 1:][:, order], shuffled[:, 1:], atol=1e-4)


def test_a_batch_of_kept_patches_has_their_truth(store: IconStore) -> None:
    batches = SceneBatches(store, build_tokenizer(), seed=1, size=4)
    whole = batches[3]
    batches.keep = 56
    part = batches[3]
    assert part.kept is not None and part.kept.shape == (4, 56)
    assert (part.pixels == whole.pixels).all() and (part.truth.slots == whole.truth.slots).all()
    for row in range(4):
        assert (part.truth.patches[row] == whole.truth.patches[row, part.kept[row]]).all()
        assert (part.truth.ranks[row] == whole.truth.ranks[row][:, part.kept[row]]).all()
        assert (part.truth.patch_tints[row] == whole.truth.patch_tints[row, part.kept[row]]).all()


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
