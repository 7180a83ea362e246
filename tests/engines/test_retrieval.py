"""Both retrieval engines against transformers, on random checkpoints in the official layout."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import blip2_chat
from blip2_chat.checkpoint.inspect import inspect_retriever
from blip2_chat.errors import CheckpointError
from tests.support.checkpoints import change_json, make_retriever
from tests.support.retrieval_reference import RetrievalReference

TOLERANCE = 1e-4
TEXTS = [
    "a woman and her dog sitting on the beach",
    "two cats",
    "Ein Straßen-Café, 100% Ünïcode & 犬!",
    "a pink blanket " * 12,
]
SHAPES: dict[str, dict[str, Any]] = {
    "usual": {},
    "other seed": {"seed": 1},
    "one query": {"num_query_tokens": 1, "seed": 2},
    "larger pictures": {"vision": {"image_size": 42}, "seed": 3},
    "cross-attention in every layer": {"qformer": {"cross_attention_frequency": 1}, "seed": 4},
    "one layer, another activation": {
        "qformer": {"num_hidden_layers": 1, "hidden_act": "relu"},
        "embedding_size": 9,
        "seed": 5,
    },
    "half precision on disk": {"dtype": "float16", "seed": 6},
}


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(7)
    return [Image.fromarray(rng.integers(0, 255, (40, 30 + i, 3), dtype=np.uint8)) for i in range(3)]


def made(folder: Path, **options: Any) -> Path:
    # Spread wide, so that pictures and texts lie apart and the probabilities are not all near a half.
    return make_retriever(folder, options.pop("seed", 0), std=0.3, **options)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_transformers(tmp_path: Path, shape: str, engine: Any) -> None:
    folder = made(tmp_path / "checkpoint", **SHAPES[shape])
    if shape == "half precision on disk":
        change_json(folder / "config.json", lambda raw: {**raw, "dtype": "float32"})
    reference = RetrievalReference(folder)
    retriever = blip2_chat.load_retriever(folder, engine=engine, precision="fp32", threads=1)
    shown = pictures()
    wanted = reference.similarity(shown, TEXTS)
    assert wanted.std() > 0.02
    np.testing.assert_allclose(retriever.similarity(shown, TEXTS), wanted, rtol=0, atol=TOLERANCE)
    probabilities = reference.match(shown, TEXTS)
    assert probabilities.std() > 0.01
    by_text = np.stack([retriever.match_pictures(shown, text) for text in TEXTS], axis=1)
    np.testing.assert_allclose(by_text, probabilities, rtol=0, atol=TOLERANCE)
    by_picture = np.stack([retriever.match_texts(one, TEXTS) for one in shown])
    np.testing.assert_allclose(by_picture, probabilities, rtol=0, atol=TOLERANCE)
    of_picture, of_text = reference.embeddings(shown[0], TEXTS[0])
    np.testing.assert_allclose(retriever.embed_picture(shown[0]), of_picture, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(retriever.embed_text(TEXTS[0]), of_text, rtol=0, atol=TOLERANCE)


def test_an_image_token_in_the_configuration_changes_nothing(tmp_path: Path) -> None:
    """With it, transformers' processor puts image tokens before the text, and its model takes them away again."""
    folder = made(tmp_path)
    before = blip2_chat.load_retriever(folder, precision="fp32").similarity(pictures(), TEXTS)
    change_json(folder / "config.json", lambda raw: {**raw, "image_token_index": 5})
    after = blip2_chat.load_retriever(folder, precision="fp32")
    np.testing.assert_array_equal(after.similarity(pictures(), TEXTS), before)


@pytest.mark.parametrize(
    ("engine", "precision", "least"),
    [
        ("onnx", "int8", 0.999),
        ("onnx", "int4", 0.95),
        ("torch", "fp16", 0.9999),
        ("torch", "bf16", 0.999),
        ("torch", "int8", 0.999),
        ("torch", "int4", 0.95),
    ],
)
def test_lower_precisions_are_near(tmp_path: Path, engine: Any, precision: Any, least: float) -> None:
    """The encoder is at the precision, and the Q-Former at fp32: the cosine of embeddings with transformers' own."""
    folder = make_retriever(tmp_path, vision={"hidden_size": 64, "intermediate_size": 128})
    retriever = blip2_chat.load_retriever(folder, engine=engine, precision=precision, device="cpu")
    reference = RetrievalReference(folder)
    wanted = np.stack([reference.embeddings(one, TEXTS[0])[0] for one in pictures()])
    found = retriever.embed_pictures(pictures())
    cosines = (found * wanted).sum(axis=-1)
    assert least < cosines.mean() < 1 - 1e-7
    # Texts do not pass through the encoder.
    np.testing.assert_allclose(
        retriever.embed_text(TEXTS[0]),
        reference.embeddings(pictures()[0], TEXTS[0])[1],
        rtol=0,
        atol=TOLERANCE,
    )
    assert (
        abs(retriever.match(pictures()[0], TEXTS[0]) - reference.match(pictures()[:1], TEXTS[:1])[0, 0])
        < 0.05
    )


def test_weights_of_a_default_language_model_are_ignored(tmp_path: Path) -> None:
    """The configuration has one by default, and some files hold a projection to it."""
    from tests.support.tensor_files import load_tensors, save_tensors

    folder = made(tmp_path)
    tensors = load_tensors(folder / "model.safetensors")
    save_tensors(
        folder / "model.safetensors",
        {**tensors, "language_projection.weight": np.zeros((8, 24), np.float32)},
    )
    assert inspect_retriever(folder).config.family == "retrieval"


def test_missing_heads_are_named(tmp_path: Path) -> None:
    from tests.support.tensor_files import load_tensors, save_tensors

    folder = made(tmp_path)
    tensors = load_tensors(folder / "model.safetensors")
    del tensors["itm_head.weight"]
    save_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"lack itm_head\.weight, which its config\.json asks for"):
        blip2_chat.load_retriever(folder)


def official() -> str | None:
    """The folder of Salesforce/blip2-itm-vit-g, for whoever has it: BLIP2_CHAT_ITM, or the hub's cache."""
    if given := os.environ.get("BLIP2_CHAT_ITM"):
        return given
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache("Salesforce/blip2-itm-vit-g", "config.json")
    return str(Path(found).parent) if isinstance(found, str) else None


@pytest.mark.skipif(official() is None, reason="the official weights are not here (BLIP2_CHAT_ITM=FOLDER)")
def test_official_values() -> None:
    """Those of transformers' own tests (tests/models/blip_2/test_modeling_blip_2.py at 185348c2), on the picture that
    BLIP2_CHAT_ITM_PICTURE names: https://huggingface.co/hf-internal-testing/blip-test-image's demo.jpg."""
    picture = os.environ.get("BLIP2_CHAT_ITM_PICTURE")
    if picture is None:
        pytest.skip("the picture is not here (BLIP2_CHAT_ITM_PICTURE=demo.jpg)")
    retriever = blip2_chat.load_retriever(official(), precision="fp32", force=True)
    text = "A woman and her dog sitting in a beach"
    # transformers' values are of torchvision's resizing; ours are of PIL's.
    assert retriever.match(picture, text) == pytest.approx(0.9762, abs=5e-3)
    assert float(retriever.similarity([picture], [text])[0, 0]) == pytest.approx(0.4406, abs=5e-3)
    embedding = retriever.embed_text("a woman sitting on the beach with a dog")
    expected = [-0.10828, 0.05319, -0.02826, 0.01698, 0.08649, -0.04657]
    np.testing.assert_allclose(embedding[:6], expected, rtol=0, atol=2e-3)
    expected = [-0.09399, -0.07593, 0.03189, 0.05301, 0.03528, -0.01190]
    np.testing.assert_allclose(retriever.embed_picture(picture)[0, :6], expected, rtol=0, atol=5e-3)
