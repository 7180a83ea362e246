"""The Q-Former with its text branch against transformers' own."""

from __future__ import annotations

from tests.support.extras import require

require("test-torch")

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
)

from blip2_chat.checkpoint.config import QFormerConfig
from blip2_chat.engines.onnx.graph import qformer
from blip2_chat.engines.onnx.graph.builder import Graph
from blip2_chat.engines.onnx.graph.tensors import FLOAT, INT32, INT64, Tensor, stored
from blip2_chat.engines.onnx.streamed import run_streamed
from tests.support.checkpoints import QFORMER, VISION
from tests.support.transformers_checkpoints import randomise

CONFIG = QFormerConfig(**QFORMER)
WIDTH = VISION["hidden_size"]


def graph(names: str, norm: str) -> Graph:
    """Queries, features and words in; hidden states of queries and words out. All lengths are of run time."""
    g = Graph("qformer")
    queries = g.input("queries", FLOAT, "B", "Q", CONFIG.hidden_size)
    picture = g.input("picture", FLOAT, "B", "P", WIDTH)
    text = qformer.Text(g.input("ids", INT64, "B", "T"), g.input("mask", INT32, "B", "K"), names)
    x, said = qformer.hidden_states(g, queries, picture, WIDTH, CONFIG, text, norm)
    assert said is not None
    g.output(x, "of_queries", FLOAT, "B", "Q", CONFIG.hidden_size)
    g.output(said, "of_text", FLOAT, "B", "T", CONFIG.hidden_size)
    return g


def run(g: Graph, state: dict[str, torch.Tensor], **inputs: np.ndarray) -> dict[str, np.ndarray]:
    def read(tensor: Tensor) -> np.ndarray:
        return tensor.make(*(state[name].numpy() for name, _ in tensor.sources))

    return run_streamed(g, read, [inputs])[0]


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.ones((2, 5 + 7), np.int32)
    mask[1, -3:] = 0  # the second text is shorter
    return {
        "queries": rng.standard_normal((2, 5, CONFIG.hidden_size)).astype(np.float32),
        "picture": rng.standard_normal((2, 9, WIDTH)).astype(np.float32),
        "ids": rng.integers(1, CONFIG.vocab_size, (2, 7)),
        "mask": mask,
    }


@pytest.fixture(scope="module")
def retrieval() -> Any:
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**QFORMER, "encoder_hidden_size": WIDTH, "use_qformer_text_input": True},
    )
    model = Blip2ForImageTextRetrieval(config).eval()
    randomise(model, seed=1, std=0.2)
    return model


def expected(model: Any, inputs: dict[str, np.ndarray], count: int, words: bool) -> np.ndarray:
    given = {name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()}
    queries = given["queries"][:, :count] if count else None
    with torch.no_grad():
        if words:
            embedded = model.embeddings(input_ids=given["ids"], query_embeds=queries)
            more: dict[str, Any] = {"query_length": count, "attention_mask": given["mask"][:, 5 - count :]}
        else:
            embedded, more = queries, {}
        if count:
            more["encoder_hidden_states"] = given["picture"]
        return model.qformer(query_embeds=embedded, **more).last_hidden_state.numpy()


@pytest.mark.parametrize(
    ("count", "words"), [(5, 7), (0, 7), (5, 0), (1, 1)], ids=["both", "text", "picture", "one"]
)
def test_queries_and_text_in_one_graph(
    retrieval: Any, inputs: dict[str, np.ndarray], count: int, words: int
) -> None:
    """Either may be absent: the same graph reads a picture, a text, and a picture with a text."""
    given = {
        "queries": inputs["queries"][:, :count],
        "picture": inputs["picture"],
        "ids": inputs["ids"][:, :words],
        "mask": inputs["mask"][:, 5 - count : 5 + words],
    }
    found = run(graph("embeddings", "qformer.layernorm"), retrieval.state_dict(), **given)
    # transformers' mask begins with all of the queries.
    cut = {**inputs, "ids": given["ids"], "mask": inputs["mask"][:, : 5 + words]}
    wanted = expected(retrieval, cut, count, bool(words))
    joined = np.concatenate([found["of_queries"], found["of_text"]], axis=1)
    seen = given["mask"].astype(bool)
    assert joined.shape == wanted.shape
    assert wanted.std() > 0.3
    np.testing.assert_allclose(joined[seen], wanted[seen], rtol=0, atol=2e-5)


def test_what_is_behind_the_end_of_a_text_changes_nothing(
    retrieval: Any, inputs: dict[str, np.ndarray]
) -> None:
    g = graph("embeddings", "qformer.layernorm")
    one = run(g, retrieval.state_dict(), **inputs)
    ids = inputs["ids"].copy()
    ids[1, -3:] = 1 + ids[1, -3:] % (CONFIG.vocab_size - 1)
    other = run(g, retrieval.state_dict(), **{**inputs, "ids": ids})
    assert (ids != inputs["ids"]).any()
    np.testing.assert_array_equal(one["of_queries"], other["of_queries"])
    np.testing.assert_array_equal(one["of_text"][1, :4], other["of_text"][1, :4])


def test_instructblips_names(inputs: dict[str, np.ndarray]) -> None:
    """InstructBLIP has the embeddings inside the Q-Former, with the norm over them."""
    config = InstructBlipQFormerConfig(**QFORMER, encoder_hidden_size=WIDTH)
    model = InstructBlipQFormerModel(config).eval()
    randomise(model, seed=2, std=0.2)
    state = {f"qformer.{name}": value for name, value in model.state_dict().items()}
    found = run(graph("qformer.embeddings", "qformer.embeddings.layernorm"), state, **inputs)
    given = {name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()}
    with torch.no_grad():
        wanted = model(
            given["ids"],
            attention_mask=given["mask"],
            query_embeds=given["queries"],
            encoder_hidden_states=given["picture"],
        ).last_hidden_state.numpy()
    joined = np.concatenate([found["of_queries"], found["of_text"]], axis=1)
    seen = inputs["mask"].astype(bool)
    np.testing.assert_allclose(joined[seen], wanted[seen], rtol=0, atol=2e-5)


def test_the_query_tokens_are_the_checkpoints_own() -> None:
    g = Graph("tokens")
    g.output(qformer.query_tokens(g, g.input("picture", FLOAT, "B", "P", WIDTH), 5, CONFIG), "q", FLOAT, "B")
    table = torch.arange(5.0 * CONFIG.hidden_size).reshape(1, 5, -1)
    name = stored("query_tokens", *table.shape).sources[0][0]
    found = run(g, {name: table}, picture=np.zeros((3, 2, WIDTH), np.float32))
    np.testing.assert_array_equal(found["q"], np.repeat(table.numpy(), 3, axis=0))
