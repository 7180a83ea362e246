"""The words of captions are those of the COCO evaluation's own tokenizer.

official/ptb_words.json holds captions with the words that pycocoevalcap's tokenizer (Stanford's, in Java) makes of
them; where Java is installed, it is run again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blip2_chat.evaluation.ptb_tokenizer import ptb_words
from tests.support.extras import imported

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "official" / "ptb_words.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["caption"][:20])
def test_words_are_those_of_the_original(case: dict[str, Any]) -> None:
    assert ptb_words(case["caption"]) == case["words"]


@pytest.mark.skipif(shutil.which("java") is None, reason="the original needs Java")
def test_the_original_still_says_so() -> None:
    original = imported("pycocoevalcap.tokenizer.ptbtokenizer", "dev")
    captions = {place: [{"caption": case["caption"]}] for place, case in enumerate(CASES)}
    words = original.PTBTokenizer().tokenize(captions)
    assert [words[place][0].split() for place in captions] == [case["words"] for case in CASES]


@given(st.text(max_size=60))
def test_any_text_has_words(text: str) -> None:
    assert all(word and not word.isspace() for word in ptb_words(text))
