"""T5 (Raffel et al. 2020), as Flan-T5 has it: RMSNorm before each part, relative positions, no biases, no scaling.

Two graphs. `build_encoder` reads picture and prompt once and also makes each decoder layer's cross-attention keys and
values, since they never change after. `build_decoder` adds one token per row.
"""

from __future__ import annotations

import math

import numpy as np

from ....checkpoint.config import T5Config
from ....checkpoint.tensor_names import HEAD
from ...engine import Floats, Ints
from ..heads import head_size
from .activations import activate
from .builder import CacheInputs, Graph, Scheme
from .tensors import FLOAT, INT32, INT64, Tensor, Value, pad_heads, stack, stored

EMBEDDING = "language_model.shared.weight"
_MASKED = -1e9


def build(config: T5Config, scheme: Scheme, head: Scheme, tied: bool) -> tuple[Graph, ...]:
    """The encoder's graph, and the decoder's."""
    return build_encoder(config, scheme), build_decoder(config, scheme, head, tied)


def build_encoder(config: T5Config, scheme: Scheme) -> Graph:
    """Inputs: `embeddings` [B, S, D], `lengths` [B] (tokens in each row; the rest is padding). Outputs: per
    decoder layer `cross_key_*` and `cross_value_*` [B, heads, S, d_kv]."""
    d, heads = config.d_model, config.num_heads
    g = Graph("prompt")
    x = g.input("embeddings", FLOAT, "B", "S", d)
    lengths = g.input("lengths", INT64, "B")
    bias = _encoder_bias(g, config, x, lengths)
    update = None
    for i in range(config.num_layers):
        name = f"language_model.encoder.block.{i}.layer"
        x, normed = _next(g, config, x, update, f"{name}.0.layer_norm")
        part = f"{name}.0.SelfAttention"
        qkv = g.linear(normed, stack(*(_projection(config, f"{part}.{p}") for p in "qkv")), None, scheme)
        q, k, v = g.ops("Split", qkv, outputs=3, axis=-1, num_outputs=3)
        y = g.attention(q, k, v, heads, 1.0, bias)
        update = g.linear(y, stored(f"{part}.o.weight", d, config.inner_dim), None, scheme)
        x, normed = _next(g, config, x, update, f"{name}.1.layer_norm")
        update = _feed_forward(g, config, normed, f"{name}.1.DenseReluDense", scheme)
    _, x = _next(g, config, x, update, "language_model.encoder.final_layer_norm")

    for i in range(config.num_decoder_layers):
        part = f"language_model.decoder.block.{i}.layer.1.EncDecAttention"
        for kind in ("key", "value"):
            y = g.linear(x, _projection(config, f"{part}.{kind[0]}"), None, scheme)
            y = g.op("Reshape", y, g.const([0, 0, heads, config.d_kv]))
            y = g.op("Transpose", y, perm=[0, 2, 1, 3])
            g.output(y, f"cross_{kind}_{i}", FLOAT, "B", heads, "S", config.d_kv)
    return g


def build_decoder(config: T5Config, scheme: Scheme, head: Scheme, tied: bool) -> Graph:
    """Inputs: `embeddings` [B, 1, D], `lengths` and `total` (see `CacheInputs`), `prompt_lengths` [B],
    `past_*`, `cross_*`. Outputs: `logits` [B, V], `present_*`."""
    d, heads, d_kv = config.d_model, config.num_heads, config.d_kv
    size = head_size(d_kv)
    g = Graph("language")
    x = g.input("embeddings", FLOAT, "B", 1, d)
    lengths, total = g.input("lengths", INT32, "B"), g.input("total", INT32)
    prompt_lengths = g.input("prompt_lengths", INT64, "B")
    cache = CacheInputs(lengths, total, _decoder_bias(g, config, lengths, total))
    keys, values = (
        [g.input(f"cross_{kind}_{i}", FLOAT, "B", heads, "T", d_kv) for i in range(config.num_decoder_layers)]
        for kind in ("key", "value")
    )
    prompt_size = g.op("Shape", keys[0], start=2, end=3)
    mask = _mask(g, prompt_lengths, g.op("Squeeze", prompt_size))
    update = None
    for i in range(config.num_decoder_layers):
        name = f"language_model.decoder.block.{i}.layer"
        x, normed = _next(g, config, x, update, f"{name}.0.layer_norm")
        part = f"{name}.0.SelfAttention"
        weights = (pad_heads(_projection(config, f"{part}.{p}"), heads, size) for p in "qkv")
        qkv = g.linear(normed, stack(*weights), None, scheme)
        y = g.cached_attention(qkv, i, heads, size, 1.0, cache)
        output = pad_heads(stored(f"{part}.o.weight", d, config.inner_dim), heads, size, axis=1)
        update = g.linear(y, output, None, scheme)

        x, normed = _next(g, config, x, update, f"{name}.1.layer_norm")
        part = f"{name}.1.EncDecAttention"
        q = g.linear(normed, _projection(config, f"{part}.q"), None, scheme)
        y = g.attention(q, keys[i], values[i], heads, 1.0, mask)
        update = g.linear(y, stored(f"{part}.o.weight", d, config.inner_dim), None, scheme)

        x, normed = _next(g, config, x, update, f"{name}.2.layer_norm")
        update = _feed_forward(g, config, normed, f"{name}.2.DenseReluDense", scheme)
    _, x = _next(g, config, x, update, "language_model.decoder.final_layer_norm")

    x = g.op("Reshape", x, g.const([-1, d]))
    if config.scale_decoder_outputs:
        x = g.op("Mul", x, g.const(d**-0.5, np.float32))
    logits = g.head(x, stored(EMBEDDING if tied else HEAD, config.vocab_size, d), head)
    g.output(logits, "logits", FLOAT, "B", config.vocab_size)
    return g


def _next(g: Graph, config: T5Config, x: Value, update: Value | None, norm: str) -> tuple[Value, Value]:
    """(x with the last part's update, its norm)."""
    weight = stored(f"{norm}.weight", config.d_model)
    if update is None:
        return x, g.rms_norm(x, weight, config.layer_norm_epsilon)
    return g.add_rms_norm(x, update, weight, config.layer_norm_epsilon)


def _projection(config: T5Config, name: str) -> Tensor:
    return stored(f"{name}.weight", config.inner_dim, config.d_model)


def _feed_forward(g: Graph, config: T5Config, x: Value, name: str, scheme: Scheme) -> Value:
    d, f = config.d_model, config.d_ff
    if config.is_gated:
        y = activate(g, config.activation, g.linear(x, stored(f"{name}.wi_0.weight", f, d), None, scheme))
        y = g.op("Mul", y, g.linear(x, stored(f"{name}.wi_1.weight", f, d), None, scheme))
    else:
        y = activate(g, config.activation, g.linear(x, stored(f"{name}.wi.weight", f, d), None, scheme))
    return g.linear(y, stored(f"{name}.wo.weight", d, f), None, scheme)


def buckets(distances: Ints, config: T5Config, both_ways: bool) -> Ints:
    """The bucket of each distance (key position minus query position): exact near by, logarithmic farther
    off, one beyond `relative_attention_max_distance` (transformers' `T5Attention._relative_position_bucket`)."""
    count = config.relative_attention_num_buckets
    offset = np.zeros_like(distances)
    if both_ways:
        count //= 2
        offset = np.where(distances > 0, count, 0)
        distances = np.abs(distances)
    else:
        distances = np.maximum(-distances, 0)
    exact = count // 2
    # In float32, as in training: other rounding would move the edges of buckets.
    ratio = np.log(np.maximum(distances, 1).astype(np.float32) / np.float32(exact))
    ratio /= np.float32(math.log(config.relative_attention_max_distance / exact))
    far = exact + (ratio * np.float32(count - exact)).astype(np.int64)
    return offset + np.where(distances < exact, distances, np.minimum(far, count - 1))


def _bias_table(config: T5Config, part: str, both_ways: bool) -> Tensor:
    """The learned bias of each distance from -reach to reach (both ways) or to 0: [distances, heads]."""
    reach = _reach(config)
    distances = np.arange(-reach, reach + 1 if both_ways else 1)
    index = buckets(distances, config, both_ways)
    name = f"language_model.{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    table = stored(name, config.relative_attention_num_buckets, config.num_heads)

    def lookup(bias: Floats) -> Floats:
        return bias[index]

    return table.map(lookup, len(distances), config.num_heads)


def _reach(config: T5Config) -> int:
    """All distances from this one on share a bucket."""
    return max(config.relative_attention_max_distance, config.relative_attention_num_buckets)


def _encoder_bias(g: Graph, config: T5Config, x: Value, lengths: Value) -> Value:
    """[B, heads, S, S]: the bias by distance, and nearly minus infinity on padding."""
    table, reach = g.weight(_bias_table(config, "encoder", both_ways=True)), _reach(config)
    size = g.op("Squeeze", g.op("Shape", x, start=1, end=2))
    steps = g.op("Range", g.const(0), size, g.const(1))
    distance = g.op("Sub", g.op("Unsqueeze", steps, g.const([0])), g.op("Unsqueeze", steps, g.const([1])))
    index = g.op("Add", g.op("Clip", distance, g.const(-reach), g.const(reach)), g.const(reach))
    bias = g.op("Transpose", g.op("Gather", table, index, axis=0), perm=[2, 0, 1])
    return g.op("Add", g.op("Unsqueeze", bias, g.const([0])), _mask(g, lengths, size))


def _decoder_bias(g: Graph, config: T5Config, lengths: Value, total: Value) -> Value:
    """[B, heads, 1, total]: the bias by distance from each row's new token, which is at position `lengths`."""
    table, reach = g.weight(_bias_table(config, "decoder", both_ways=False)), _reach(config)
    steps = g.op("Range", g.const(0), g.op("Cast", total, to=INT64), g.const(1))
    new = g.op("Unsqueeze", g.op("Cast", lengths, to=INT64), g.const([1]))
    distance = g.op("Sub", g.op("Unsqueeze", steps, g.const([0])), new)
    index = g.op("Add", g.op("Clip", distance, g.const(-reach), g.const(0)), g.const(reach))
    bias = g.op("Transpose", g.op("Gather", table, index, axis=0), perm=[0, 2, 1])
    return g.op("Unsqueeze", bias, g.const([2]))


def _mask(g: Graph, lengths: Value, size: Value) -> Value:
    """[B, 1, 1, size]: 0 on each row's first `lengths` tokens, then nearly minus infinity."""
    steps = g.op("Range", g.const(0), size, g.const(1))
    inside = g.op("Less", g.op("Unsqueeze", steps, g.const([0])), g.op("Unsqueeze", lengths, g.const([1])))
    mask = g.op("Where", inside, g.const(0, np.float32), g.const(_MASKED, np.float32))
    return g.op("Unsqueeze", mask, g.const([1, 2]))
