"""The embedded retrieval model equals transformers, and int8 and int4 match like fp32."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

from typing import Any

import numpy as np
import pytest

import blip2_chat
from blip2_chat.checkpoint.embedded import (
    EMBEDDED_RETRIEVER,
    embedded_folder,
    embedded_models,
    sample_pictures,
)

if EMBEDDED_RETRIEVER not in embedded_models():
    pytest.skip(f"{EMBEDDED_RETRIEVER} is not here yet", allow_module_level=True)

from tests.support.retrieval_reference import RetrievalReference

PICTURES = [one.path for one in sample_pictures()]
TEXTS = [one.caption for one in sample_pictures()]


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_it_equals_transformers(engine: Any) -> None:
    reference = RetrievalReference(embedded_folder(EMBEDDED_RETRIEVER))
    retriever = blip2_chat.load_retriever(engine=engine, precision="fp32")
    assert retriever.name == EMBEDDED_RETRIEVER
    np.testing.assert_allclose(
        retriever.similarity(PICTURES, TEXTS), reference.similarity(PICTURES, TEXTS), atol=1e-4
    )
    found = [[retriever.match(picture, text) for text in TEXTS[:3]] for picture in PICTURES[:3]]
    np.testing.assert_allclose(found, reference.match(PICTURES[:3], TEXTS[:3]), atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_captions_fit_their_own_pictures_best(precision: Any) -> None:
    retriever = blip2_chat.load_retriever(precision=precision)
    best = [retriever.rank(picture, TEXTS)[0].text for picture in PICTURES]
    right = [text == expected for text, expected in zip(best, TEXTS, strict=True)]
    assert sum(right) >= len(right) - 1, best
