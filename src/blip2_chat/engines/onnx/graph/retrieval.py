"""Image-text retrieval (Li et al. 2023, section 4.5): the picture encoder, and a Q-Former with three heads.

The Q-Former is one graph for three uses, told apart by what it is given: queries and no words make a picture's
embeddings, words and no queries a text's, and both together the logits of whether they match. So its weights are in
memory once. A picture's features are between the two graphs, and can be kept there.
"""

from __future__ import annotations

import numpy as np

from ....checkpoint.retrieval_config import RetrievalConfig
from . import qformer, vision
from .builder import Graph, Scheme
from .tensors import FLOAT, INT32, INT64, Value, stored

# torch.nn.functional.normalize's.
_SMALLEST_LENGTH = 1e-12


def build(config: RetrievalConfig, scheme: Scheme) -> tuple[Graph, Graph]:
    """The graphs `picture`, stored as `scheme` says, and `matching`, in float32.

    picture: `pixels` [B, 3, H, W] -> `features` [B, P, W]. matching: `features` [B, P, W], `count` [1] (how many of
    the queries: all or none), `ids` [B, T], `mask` [B, count + T] -> `picture_embeddings` [B, count, E] and
    `text_embeddings` [B, 1, E] (none without words), rows of length 1, and `match_logits` [B, count, 2].
    """
    v, c = config.vision, config.qformer
    picture = Graph("picture")
    pixels = picture.input("pixels", FLOAT, "B", 3, v.image_size, v.image_size)
    features = vision.encode(picture, pixels, v, scheme)
    picture.output(features, "features", FLOAT, "B", v.num_positions, v.hidden_size)

    g = Graph("matching")
    features = g.input("features", FLOAT, "B", "P", v.hidden_size)
    count = g.input("count", INT64, 1)
    text = qformer.Text(g.input("ids", INT64, "B", "T"), g.input("mask", INT32, "B", "K"))
    tokens = qformer.query_tokens(g, features, config.num_query_tokens, c)
    tokens = g.op("Slice", tokens, g.const([0]), count, g.const([1]))
    queries, words = qformer.hidden_states(g, tokens, features, v.hidden_size, c, text)
    assert words is not None
    first = g.op("Slice", words, g.const([0]), g.const([1]), g.const([1]))  # [CLS]
    size = config.embedding_size
    of_picture = _unit(g, _project(g, queries, "vision_projection", size, config))
    g.output(of_picture, "picture_embeddings", FLOAT, "B", "Q", size)
    of_text = _unit(g, _project(g, first, "text_projection", size, config))
    g.output(of_text, "text_embeddings", FLOAT, "B", "N", size)
    g.output(_project(g, queries, "itm_head", 2, config), "match_logits", FLOAT, "B", "Q", 2)
    return picture, g


def _project(g: Graph, x: Value, name: str, size: int, config: RetrievalConfig) -> Value:
    weight = stored(f"{name}.weight", size, config.qformer.hidden_size)
    return g.linear(x, weight, stored(f"{name}.bias", size))


def _unit(g: Graph, x: Value) -> Value:
    """Rows scaled to length 1."""
    length = g.op("ReduceL2", x, g.const([-1]), keepdims=1)
    return g.op("Div", x, g.op("Max", length, g.const(_SMALLEST_LENGTH, np.float32)))
