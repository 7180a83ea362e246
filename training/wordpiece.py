"""A small BERT tokenizer for the retrieval model: lower-cased WordPiece, with BERT's special tokens and ``[DEC]``.

Every word of the descriptions is one token; other words are spelt with letters.
"""

from __future__ import annotations

import string
from pathlib import Path

from transformers import BertTokenizerFast

from .backgrounds import COLOURS
from .catalog import KINDS

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
OTHERS = "a an and background four image nothing of on one photo picture the there three two is with"


def words() -> list[str]:
    """All words of the descriptions, sorted."""
    found = set(OTHERS.split())
    for kind in KINDS:
        found |= {*kind.name.split(), *kind.plural.split()}
    return sorted(found | {colour.name for colour in COLOURS})


def vocabulary() -> list[str]:
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    plain = [*letters, *words()]
    pieces = [f"##{letter}" for letter in [*string.ascii_lowercase, *string.digits]]
    return [*SPECIALS, *dict.fromkeys(plain), *pieces]


def build_wordpiece(folder: Path) -> BertTokenizerFast:
    """Write ``vocab.txt`` and the tokenizer's other files, and read them back."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "vocab.txt"
    file.write_text("".join(token + "\n" for token in vocabulary()))
    made = BertTokenizerFast(vocab=str(file), do_lower_case=True, model_max_length=64)
    made.save_pretrained(folder)
    file.write_text("".join(token + "\n" for token in vocabulary()))
    return BertTokenizerFast.from_pretrained(folder)
