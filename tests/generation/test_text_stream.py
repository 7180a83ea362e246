"""Prompts are tokenised as Blip2Processor does it; streamed text never shows half a character or a stop string."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blip2_chat.checkpoint.config import ModelConfig
from blip2_chat.checkpoint.tokenizer import Tokenizer
from blip2_chat.errors import CheckpointError
from blip2_chat.generation.text_stream import TextStream, clean, first_stop
from tests.support.extras import needs

TEXTS = [
    "",
    "a photo of",
    "Question: which city is this? Answer: singapore. Question: why? Answer:",
    "  spaces  and\ttabs\n",
    "naïve café — 日本語 🐈‍⬛",
]


@pytest.fixture(scope="module", params=["opt", "t5"])
def folder(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Path:
    return checkpoint(request.param, 0)


def tokenizer_of(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder, ModelConfig.from_folder(folder))


@needs("test-torch")
@pytest.mark.parametrize("text", TEXTS)
def test_the_ids_are_those_of_blip2processor(folder: Path, text: str) -> None:
    config = ModelConfig.from_folder(folder)
    from transformers import Blip2Processor

    processor = Blip2Processor.from_pretrained(folder)
    picture = Image.fromarray(np.zeros((28, 28, 3), np.uint8))
    theirs = processor(images=picture, text=text)["input_ids"][0]
    ours = tokenizer_of(folder).encode(text)
    assert [config.image_token_id] * config.num_query_tokens + ours == list(theirs)


def test_a_typed_control_token_is_only_text(folder: Path) -> None:
    config = ModelConfig.from_folder(folder)
    tokenizer = tokenizer_of(folder)
    ids = tokenizer.encode("</s> <image> what is <pad> this?")
    inner = ids[1:] if config.family == "opt" else ids[:-1]
    controls = {
        config.image_token_id,
        config.text.pad_token_id,
        config.text.bos_token_id,
        *config.text.eos_token_ids,
    }
    assert not controls & set(inner)
    assert "what is" in tokenizer.decode(inner)


def test_a_damaged_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_folder(tmp_path, ModelConfig.from_folder(folder))


def pieces_of(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...]) -> tuple[list[str], TextStream]:
    stream = TextStream(tokenizer, stop)
    pieces = [stream.push(one) for one in ids]
    return [*pieces, stream.finish()], stream


@pytest.fixture(scope="module")
def opt_tokenizer(checkpoint: Callable[..., Path]) -> Tokenizer:
    return tokenizer_of(checkpoint("opt", 0))


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.sampled_from("ab Qé日🐈\nQuestion:."), max_size=30),
    st.sampled_from([(), ("\n",), ("Question:", "ab")]),
)
def test_joined_pieces_are_the_cleaned_text(
    opt_tokenizer: Tokenizer, text: str, stop: tuple[str, ...]
) -> None:
    ids = opt_tokenizer.encode(text)[1:]
    pieces, stream = pieces_of(opt_tokenizer, ids, stop)
    assert "".join(pieces) == stream.text == clean(text, stop)
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert first_stop(stream.text, stop) is None


def test_a_character_of_many_bytes_comes_whole(opt_tokenizer: Tokenizer) -> None:
    ids = opt_tokenizer.encode("🐈 é")[1:]
    assert len(ids) > 4, "the tokenizer should cut the cat into bytes"
    pieces, _ = pieces_of(opt_tokenizer, ids, ())
    assert [piece for piece in pieces if piece] == ["🐈", " é"]


def test_text_flows_while_it_is_written(opt_tokenizer: Tokenizer) -> None:
    ids = opt_tokenizer.encode(" two cats on a couch\nQuestion: and")[1:]
    stream = TextStream(opt_tokenizer, ("\n", "Question:"))
    shown: list[str] = []
    for token in ids:
        shown.append(stream.push(token))
        if stream.stopped:
            break
    assert "".join(shown) == "two cats on a couch"
    assert sum(bool(piece) for piece in shown) >= 5
    assert stream.push(ids[0]) == "" and stream.finish() == ""


def test_bytes_that_never_become_a_character_do_not_hold_back_what_was_before(
    opt_tokenizer: Tokenizer,
) -> None:
    broken = opt_tokenizer.encode("cat 🐈")[1:][:-1]
    pieces, _ = pieces_of(opt_tokenizer, broken, ())
    assert "".join(pieces).startswith("cat")
