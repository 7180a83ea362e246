"""The Q-Former's tokenizer against transformers' BertTokenizer, from a vocabulary and from tokenizer.json."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

from pathlib import Path

import pytest
from transformers import BertTokenizer

from blip2_chat.checkpoint.retrieval_config import RetrievalConfig
from blip2_chat.checkpoint.wordpiece import WordPiece
from blip2_chat.errors import CheckpointError, GenerationError
from tests.support.checkpoints import change_json, make_retriever

TEXTS = [
    "a woman and her dog sitting on the beach",
    "Two Cats,  on\tthe\npink blanket!",
    "Ünïcode: Straßen-Café",
    "two犬dogs",
    "q" * 101 + " dog",  # longer than any word
    "zero\x00width\u200bspace",
    "",
    "[unused] #1 (dog's)",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_retriever(tmp_path)


def tokenizer(folder: Path) -> WordPiece:
    return WordPiece.from_folder(folder, RetrievalConfig.from_folder(folder))


@pytest.mark.parametrize("text", TEXTS)
def test_a_vocabulary_gives_transformers_ids(folder: Path, text: str) -> None:
    assert tokenizer(folder).encode(text) == BertTokenizer.from_pretrained(folder)(text)["input_ids"]


@pytest.mark.parametrize(
    "settings", [{"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
def test_its_settings_are_followed(folder: Path, settings: dict[str, bool]) -> None:
    before = [tokenizer(folder).encode(text) for text in TEXTS]
    change_json(folder / "tokenizer_config.json", lambda raw: {**raw, **settings})
    theirs = BertTokenizer.from_pretrained(folder)
    after = [tokenizer(folder).encode(text) for text in TEXTS]
    assert after == [theirs(text)["input_ids"] for text in TEXTS]
    assert after != before


def test_tokenizer_json_goes_before_the_vocabulary(folder: Path) -> None:
    wanted = [tokenizer(folder).encode(text) for text in TEXTS]
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    assert (folder / "tokenizer.json").is_file()
    (folder / "vocab.txt").write_text("nonsense", "utf-8")
    assert [tokenizer(folder).encode(text) for text in TEXTS] == wanted


def test_control_tokens_in_a_text_are_text(folder: Path) -> None:
    """transformers takes them for tokens: whoever writes a text must not end it in its middle."""
    ids = tokenizer(folder).encode("dog [SEP] cat")
    vocabulary = (folder / "vocab.txt").read_text("utf-8").splitlines()
    assert ids.count(vocabulary.index("[SEP]")) == 1
    assert ids[0] == vocabulary.index("[CLS]")
    assert ids[-1] == vocabulary.index("[SEP]")


def test_half_a_surrogate_pair_is_no_crash(folder: Path) -> None:
    assert tokenizer(folder).encode("dog \udce4") == tokenizer(folder).encode("dog ?")


def test_a_text_that_is_too_long(folder: Path) -> None:
    tokenizer(folder).encode("dog " * 510)
    with pytest.raises(
        GenerationError, match=r"a text of 513 tokens is too long: .* at most 512; shorten it"
    ):
        tokenizer(folder).encode("dog " * 511)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", r"it has no \[UNK\]"),
        ("[UNK]\ndog\n", r"it has no \[CLS\]"),
        ("\n".join(["[UNK]", "[CLS]", "[SEP]", *map(str, range(500))]), "another model's"),
    ],
)
def test_a_vocabulary_of_something_else_is_one_line(folder: Path, content: str, said: str) -> None:
    (folder / "vocab.txt").write_text(content, "utf-8")
    with pytest.raises(CheckpointError, match=said):
        tokenizer(folder)


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"vocab\.txt cannot be read"):
        tokenizer(folder)
