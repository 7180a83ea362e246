"""Tags out of a list: the same words as matching every one of them, and `run --tag-list`, which writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import blip2_chat
from blip2_chat.cli import app
from blip2_chat.metadata.packet import DC, Packet
from blip2_chat.retriever import Retriever
from tests.support.batch import make_pictures

WORDS = ["a dog", "beach", "two cats", "a pink blanket", "rain", "night", "a red car", "snow"]


@pytest.fixture(scope="module")
def retriever(retrieval_checkpoint: Path) -> Iterator[Retriever]:
    loaded = blip2_chat.load_retriever(retrieval_checkpoint, threads=1)
    yield loaded
    loaded.close()


def test_the_tags_are_the_words_that_match(retriever: Retriever, tmp_path: Path) -> None:
    probabilities = []
    for picture in make_pictures(tmp_path, 3):
        matched = {word: retriever.match(picture, word) for word in WORDS}
        least = float(np.median(list(matched.values())))
        tagger = blip2_chat.Tagger(retriever, [*WORDS, WORDS[0]], most=3, least=least)
        assert [one.text for one in tagger.rank(picture)] == sorted(WORDS, key=lambda word: -matched[word])
        tags = tagger.tags(picture)
        assert list(tags) == sorted(WORDS, key=lambda word: -matched[word])[:3]
        assert all(matched[tag] >= least for tag in tags)
        assert blip2_chat.Tagger(retriever, WORDS, least=1).tags(picture) == ()
        probabilities += list(matched.values())
    assert len({round(one, 4) for one in probabilities}) > len(WORDS), "all the same would prove nothing"


def test_of_a_long_list_the_nearest_words_are_read(retriever: Retriever, tmp_path: Path) -> None:
    (picture,) = make_pictures(tmp_path, 1)
    words = [f"{one} {number}" for one in WORDS for number in range(10)]
    ranked = blip2_chat.Tagger(retriever, words).rank(picture)
    similarities = retriever.similarity([picture], words)[0]
    nearest = [words[index] for index in np.argsort(-similarities, kind="stable")[:32]]
    assert {one.text for one in ranked} == set(nearest)
    for one in ranked:
        assert one.similarity == pytest.approx(similarities[words.index(one.text)], abs=1e-5)


@pytest.mark.parametrize(
    ("words", "settings", "fault"),
    [
        ([], {}, "no words"),
        ([" "], {}, "is empty"),
        (["a"], {"most": 0}, "at least 1"),
        (["a"], {"least": 2}, "between"),
    ],
)
def test_what_cannot_be_a_list_of_tags(
    retriever: Retriever, words: list[str], settings: dict[str, float], fault: str
) -> None:
    with pytest.raises(blip2_chat.GenerationError, match=fault):
        blip2_chat.Tagger(retriever, words, **settings)  # type: ignore[arg-type]


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    return done.exit_code, done.stderr


def subjects(path: Path) -> list[str]:
    return Packet(Path(f"{path}.xmp").read_bytes()).items(DC, "subject")


def test_a_run_writes_the_tags_once(
    retrieval_checkpoint: Path, retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = make_pictures(tmp_path / "photos", 3)
    words = tmp_path / "words.txt"
    words.write_text("\n".join([*WORDS, ""]), encoding="utf-8")
    command = [
        "run",
        tmp_path / "photos",
        "--write",
        "xmp",
        "--tag-list",
        words,
        "--tag-model",
        retrieval_checkpoint,
    ]
    code, told = run(*command)
    assert code == 0 and "3 written" in told, told
    tagger = blip2_chat.Tagger(retriever, WORDS)
    assert {path: subjects(path) for path in pictures} == {path: list(tagger.tags(path)) for path in pictures}
    assert any(subjects(path) for path in pictures)
    # Those that are there are not found again: not even the model is loaded.
    monkeypatch.setattr("blip2_chat.retriever_loading.load_retriever", None)
    code, told = run(*command)
    assert code == 0 and "3 there already" in told, told


def test_lists_that_are_none(tmp_path: Path) -> None:
    make_pictures(tmp_path / "photos", 1)
    empty = tmp_path / "words.txt"
    empty.write_text("\n\n", encoding="utf-8")
    for options, told in (
        (["--tag-list", empty], "belong to --write xmp or --embed"),
        (["--write", "xmp", "--tag-list", empty], "has no words"),
        (["--write", "xmp", "--tag-list", tmp_path / "none.txt"], "cannot be read"),
        (["--write", "xmp", "--tags", "--tag-list", empty], "give one of them"),
    ):
        code, line = run("run", tmp_path / "photos", *options)
        assert code == 2 and told in " ".join(line.split()), line
