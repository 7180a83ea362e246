"""`blip2-chat evaluate --retrieval`: the recall equals one computed from transformers' scores of every pair."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app
from blip2_chat.errors import Blip2ChatError
from blip2_chat.evaluation.benchmarks import open_captions
from blip2_chat.evaluation.presets import RETRIEVAL, published
from blip2_chat.evaluation.retrieval_run import RetrievalRun, plain_caption
from blip2_chat.retriever import Retriever
from tests.support.batch import make_pictures
from tests.support.retrieval_reference import RetrievalReference

PICTURES = 7
WORDS = ("a dog on the beach", "Two cats!", "a pink blanket", "cats and a dog", "the sea", "a photo of a cat")


@pytest.fixture(scope="module")
def retriever(retrieval_checkpoint: Path) -> Retriever:
    return blip2_chat.load_retriever(retrieval_checkpoint, threads=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A set in Karpathy's format, one picture of which has a text less than the others."""
    place = tmp_path_factory.mktemp("set")
    made = make_pictures(place / "images", PICTURES)
    images: list[dict[str, Any]] = [
        {
            "split": "test",
            "filepath": str(path.parent.relative_to(place / "images")),
            "filename": path.name,
            "imgid": number,
            "sentences": [
                {"raw": f"{WORDS[(number + one) % len(WORDS)]} {'cat ' * number}"}
                for one in range(2 + (number > 0))
            ],
        }
        for number, path in enumerate(made)
    ]
    file = place / "dataset_flickr30k.json"
    file.write_text(json.dumps({"dataset": "flickr30k", "images": images}), encoding="utf-8")
    return file, place / "images"


def recalls(scores: np.ndarray, owners: np.ndarray) -> dict[str, float]:
    """Of scores [P, T], the better the larger, and the picture of each text."""
    found = {}
    for name, table, is_right in (
        ("picture to text", scores, owners[None] == np.arange(len(scores))[:, None]),
        ("text to picture", scores.T, owners[:, None] == np.arange(len(scores))[None]),
    ):
        for first in (1, 5, 10):
            places = np.argsort(-table, axis=1)[:, :first]
            found[f"{name} R@{first}"] = 100 * np.take_along_axis(is_right, places, axis=1).any(axis=1).mean()
    return found


@pytest.mark.parametrize("candidates", [128, 3])
def test_recall_equals_that_of_transformers(
    retrieval_checkpoint: Path, retriever: Retriever, files: tuple[Path, Path], candidates: int
) -> None:
    run = RetrievalRun(retriever, open_captions(*files), candidates)
    run.run()
    cases = run.benchmark.cases
    reference = RetrievalReference(retrieval_checkpoint)
    pictures = [one.picture for one in cases]
    texts = [plain_caption(text) for one in cases for text in one.expected]
    owners = np.array([at for at, one in enumerate(cases) for _ in one.expected])
    likeness = reference.similarity(pictures, texts)
    logits = np.array(
        [[reference._forward(one, text, True)[0, 1].item() for text in texts] for one in pictures]
    )
    found = run.scores()
    assert {name: value for name, value in found.items() if "ITC" in name} == {
        f"{name} (ITC)": pytest.approx(value) for name, value in recalls(likeness, owners).items()
    }
    # Candidates of both directions, each ordered anew, and the others behind them.
    expected: dict[str, float] = {}
    for way, axis in (("picture to text", 1), ("text to picture", 0)):
        places = np.argsort(np.argsort(-likeness, axis=axis), axis=axis)
        scores = np.where(places < candidates, logits + likeness, likeness - 1000)
        expected |= {name: value for name, value in recalls(scores, owners).items() if name.startswith(way)}
    assert {name: value for name, value in found.items() if "ITC" not in name} == {
        name: pytest.approx(value) for name, value in expected.items()
    }
    # Neither nothing nor everything is right, so a mistake shows.
    assert 0 < found["text to picture R@5"] < 100


def test_a_broken_off_run_goes_on(retriever: Retriever, files: tuple[Path, Path], tmp_path: Path) -> None:
    benchmark, saved = open_captions(*files), tmp_path / "run.jsonl"
    whole = RetrievalRun(retriever, benchmark)
    whole.run()

    def stop(at: str, count: int) -> RetrievalRun:
        def watch(what: str, done: int, total: int) -> None:
            if (what, done) == (at, count):
                raise KeyboardInterrupt

        run = RetrievalRun(retriever, benchmark, saved=saved)
        with pytest.raises(KeyboardInterrupt):
            run.run(watch)
        return run

    assert stop("embedding", 3).scores() == {}
    second = stop("matching", 4)
    assert second.resumed == 3 and all("(ITC)" in name for name in second.scores())
    # A kill in the middle of a line.
    saved.write_bytes(saved.read_bytes()[:-20])
    third = RetrievalRun(retriever, benchmark, saved=saved)
    assert (third.resumed, third.reranked) == (PICTURES, 3)
    third.run()
    assert third.scores() == whole.scores()
    with pytest.raises(Blip2ChatError, match=r"another candidates \(128\); choose another name"):
        RetrievalRun(retriever, benchmark, 5, saved)
    saved.write_text('{"some": "thing"}\n', encoding="utf-8")
    with pytest.raises(Blip2ChatError, match="choose another name"):
        RetrievalRun(retriever, benchmark, saved=saved)


def test_as_a_user_types_it(retrieval_checkpoint: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    def run(*more: str) -> tuple[int, str, str]:
        arguments = ["evaluate", "--retrieval", *map(str, files), "--model", str(retrieval_checkpoint), *more]
        done = CliRunner().invoke(app, arguments)
        return done.exit_code, done.stdout, done.stderr

    code, printed, told = run("--candidates", "4", "--save", str(tmp_path / "run.jsonl"))
    assert code == 0, told
    lines = printed.splitlines()
    assert "on Flickr30k Karpathy test: 7 of 7 pictures, 4 candidates" in lines[0] and len(lines) == 13
    code, printed, told = run("--candidates", "4", "--save", str(tmp_path / "run.jsonl"), "--json")
    assert code == 0 and "7 pictures are in" in told
    scores = json.loads(printed)["scores"]
    assert [f"{name:<27} {value:7.2f}" for name, value in scores.items()] == [
        line.strip() for line in lines[1:]
    ]
    code, _, told = run("--preset", "chat")
    assert code == 2 and "--retrieval has no --preset" in told
    code, _, told = run("--split", "val")
    assert code == 1 and "no pictures of the split 'val'" in told


def test_the_papers_figures_are_beside_those_of_the_checkpoint() -> None:
    found = published("Salesforce/blip2-itm-vit-g-coco", "Flickr30k Karpathy test", RETRIEVAL)
    assert found["picture to text R@1"].value == 97.6 and found["text to picture R@10"].value == 98.9
    assert len(published("folder/blip2-itm-vit-g-coco-int8", "COCO Karpathy test", RETRIEVAL)) == 6
    assert published("Salesforce/blip2-itm-vit-g", "COCO Karpathy test", RETRIEVAL) == {}


def test_long_texts_are_cut_as_by_transformers(retrieval_checkpoint: Path, retriever: Retriever) -> None:
    reference = RetrievalReference(retrieval_checkpoint)
    text = "cat dog " * 40
    expected = reference.tokenizer(text, truncation=True, max_length=35).input_ids
    assert retriever.tokenizer.encode(text, most=35) == list(expected)
    assert len(expected) == 35 and not torch.is_tensor(expected)
