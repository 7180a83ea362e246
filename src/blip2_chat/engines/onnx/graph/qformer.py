"""The Q-Former (Li et al. 2023, section 3.1): a few learned queries read the picture's features.

A post-LayerNorm BERT whose layers cross-attend to the picture at every `cross_attention_frequency`-th layer. Its text
branch is not built. It stays float32 in every precision: half precision here changes captions
(https://github.com/huggingface/transformers/pull/37068).
"""

from __future__ import annotations

from ....checkpoint.config import ModelConfig
from .activations import activate
from .builder import Graph, Tensor, Value, stored


def query(g: Graph, picture: Value, config: ModelConfig) -> Value:
    """Picture features [B, T, vision width] -> query vectors [B, num_query_tokens, language model's width]."""
    c = config.qformer
    d, f = c.hidden_size, c.intermediate_size
    queries = g.weight(stored("query_tokens", 1, config.num_query_tokens, d))
    batch = g.op("Shape", picture, start=0, end=1)
    queries = g.op("Expand", queries, g.op("Concat", batch, g.const([1, 1]), axis=0))
    x = g.layer_norm(queries, *_norm("qformer.layernorm", d), c.layer_norm_eps)

    for i in range(c.num_hidden_layers):
        name = f"qformer.encoder.layer.{i}"
        x = _attend(g, x, x, f"{name}.attention", d, config)
        if c.has_cross_attention(i):
            x = _attend(g, x, picture, f"{name}.crossattention", config.vision.hidden_size, config)
        y = g.linear(x, *_linear(f"{name}.intermediate_query.dense", f, d))
        y = g.linear(activate(g, c.hidden_act, y), *_linear(f"{name}.output_query.dense", d, f))
        x = g.add_layer_norm(x, y, *_norm(f"{name}.output_query.LayerNorm", d), c.layer_norm_eps)[1]

    return g.linear(x, *_linear("language_projection", config.text.hidden_size, d))


def _attend(g: Graph, x: Value, source: Value, name: str, width: int, config: ModelConfig) -> Value:
    """x attends to `source` (of `width`), is added to the result and normalised."""
    c = config.qformer
    d = c.hidden_size
    q = g.linear(x, *_linear(f"{name}.attention.query", d, d))
    k = g.linear(source, *_linear(f"{name}.attention.key", d, width))
    v = g.linear(source, *_linear(f"{name}.attention.value", d, width))
    y = g.attention(q, k, v, c.num_attention_heads, c.head_dim**-0.5)
    y = g.linear(y, *_linear(f"{name}.output.dense", d, d))
    return g.add_layer_norm(x, y, *_norm(f"{name}.output.LayerNorm", d), c.layer_norm_eps)[1]


def _linear(name: str, n: int, k: int) -> tuple[Tensor, Tensor]:
    return stored(f"{name}.weight", n, k), stored(f"{name}.bias", n)


def _norm(name: str, d: int) -> tuple[Tensor, Tensor]:
    return stored(f"{name}.weight", d), stored(f"{name}.bias", d)
