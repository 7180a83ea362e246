"""The Q-Former (Li et al. 2023, section 3.1): a few learned queries read the picture's features.

A post-LayerNorm BERT. Queries and the words of a text attend to each other; only the queries attend to the picture,
at every `cross_attention_frequency`-th layer, and each of the two has feed-forward layers of its own. It stays
float32 in every precision: half precision here changes captions (https://github.com/huggingface/transformers/pull/37068).
"""

from __future__ import annotations

from dataclasses import dataclass

from ....checkpoint.config import ModelConfig, QFormerConfig
from .activations import activate
from .builder import Graph
from .tensors import INT32, INT64, Tensor, Value, stored


@dataclass(frozen=True)
class Text:
    """The text beside the queries: `ids` int64 [B, T], from `[CLS]` on, and `mask` int32 [B, Q + T], 1 for a
    query or a token and 0 for padding. `names`: what the names of the embeddings of words and positions begin
    with."""

    ids: Value
    mask: Value
    names: str = "embeddings"


def query(g: Graph, picture: Value, config: ModelConfig) -> Value:
    """Picture features [B, T, vision width] -> query vectors [B, num_query_tokens, language model's width]."""
    tokens = query_tokens(g, picture, config.num_query_tokens, config.qformer)
    x, _ = hidden_states(g, tokens, picture, config.vision.hidden_size, config.qformer)
    return g.linear(x, *_linear("language_projection", config.text.hidden_size, config.qformer.hidden_size))


def instructed_query(g: Graph, picture: Value, config: ModelConfig) -> Value:
    """`query` of a Q-Former that reads the instruction, too (InstructBLIP, Dai et al. 2023). Inputs: `instruction`
    int64 [B, T] and `mask` int32 [B, Q + T], see `Text`."""
    instruction = g.input("instruction", INT64, "B", "T")
    text = Text(instruction, g.input("mask", INT32, "B", "M"), names="qformer.embeddings")
    tokens = query_tokens(g, picture, config.num_query_tokens, config.qformer)
    norm = "qformer.embeddings.layernorm"
    x, _ = hidden_states(g, tokens, picture, config.vision.hidden_size, config.qformer, text, norm)
    return g.linear(x, *_linear("language_projection", config.text.hidden_size, config.qformer.hidden_size))


def query_tokens(g: Graph, batch: Value, count: int, config: QFormerConfig) -> Value:
    """The learned queries, once for each row of `batch`: [B, count, D]."""
    tokens = g.weight(stored("query_tokens", 1, count, config.hidden_size))
    rows = g.op("Shape", batch, start=0, end=1)
    return g.op("Expand", tokens, g.op("Concat", rows, g.const([1, 1]), axis=0))


def hidden_states(
    g: Graph,
    queries: Value,
    picture: Value,
    width: int,
    config: QFormerConfig,
    text: Text | None = None,
    norm: str = "qformer.layernorm",
) -> tuple[Value, Value | None]:
    """(Hidden states of the queries [B, Q, D], those of the text [B, T, D] or None).

    `queries` [B, Q, D] are before `norm`, the layer norm over all embeddings. `picture` [B, P, width]. Q and T are
    those of the values at run time, and either may be 0: queries alone, a text alone, or both.
    """
    c, d = config, config.hidden_size
    x, mask, sizes = queries, None, None
    if text is not None:
        words = _words(g, text, config)
        x = g.op("Concat", queries, words, axis=1)
        mask = text.mask
        lengths = (g.op("Shape", part, start=1, end=2) for part in (queries, text.ids))
        sizes = g.op("Concat", *lengths, axis=0)
    x = g.layer_norm(x, *_norm(norm, d), c.layer_norm_eps)
    said: Value | None = None

    for i in range(c.num_hidden_layers):
        name = f"qformer.encoder.layer.{i}"
        if said is not None:
            x = g.op("Concat", x, said, axis=1)
        x = _attend(g, x, x, f"{name}.attention", d, config, mask)
        if sizes is not None:
            x, said = g.ops("Split", x, sizes, outputs=2, axis=1)
        if c.has_cross_attention(i):
            x = _attend(g, x, picture, f"{name}.crossattention", width, config)
        x = _feed_forward(g, x, name, "_query", config)
        if said is not None:
            said = _feed_forward(g, said, name, "", config)
    return x, said


def _words(g: Graph, text: Text, config: QFormerConfig) -> Value:
    """Word and position embeddings, added: [B, T, D]."""
    d = config.hidden_size
    words = g.table(stored(f"{text.names}.word_embeddings.weight", config.vocab_size, d), text.ids)
    table = g.weight(stored(f"{text.names}.position_embeddings.weight", config.max_position_embeddings, d))
    length = g.op("Shape", text.ids, start=1, end=2)
    positions = g.op("Slice", table, g.const([0]), length, g.const([0]))
    return g.op("Add", words, positions)


def _attend(
    g: Graph, x: Value, source: Value, name: str, width: int, config: QFormerConfig, mask: Value | None = None
) -> Value:
    """x attends to `source` (of `width`), is added to the result and normalised."""
    c, d = config, config.hidden_size
    q = g.linear(x, *_linear(f"{name}.attention.query", d, d))
    k = g.linear(source, *_linear(f"{name}.attention.key", d, width))
    v = g.linear(source, *_linear(f"{name}.attention.value", d, width))
    y = g.attention(q, k, v, c.num_attention_heads, c.head_dim**-0.5, mask=mask)
    y = g.linear(y, *_linear(f"{name}.output.dense", d, d))
    return g.add_layer_norm(x, y, *_norm(f"{name}.output.LayerNorm", d), c.layer_norm_eps)[1]


def _feed_forward(g: Graph, x: Value, name: str, branch: str, config: QFormerConfig) -> Value:
    d, f = config.hidden_size, config.intermediate_size
    y = g.linear(x, *_linear(f"{name}.intermediate{branch}.dense", f, d))
    y = g.linear(activate(g, config.hidden_act, y), *_linear(f"{name}.output{branch}.dense", d, f))
    return g.add_layer_norm(x, y, *_norm(f"{name}.output{branch}.LayerNorm", d), config.layer_norm_eps)[1]


def _linear(name: str, n: int, k: int) -> tuple[Tensor, Tensor]:
    return stored(f"{name}.weight", n, k), stored(f"{name}.bias", n)


def _norm(name: str, d: int) -> tuple[Tensor, Tensor]:
    return stored(f"{name}.weight", d), stored(f"{name}.bias", d)
