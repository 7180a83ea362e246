"""LLaMA (Touvron et al. 2023), which Vicuna is: a pre-RMSNorm decoder with rotary positions and a gated feed-forward.

One graph serves prefill and step, as in `opt.py`: S new tokens per row after those in the KV buffers, shorter
rows padded at their end. Several query heads may share one head of keys and values (Ainslie et al. 2023); in the
official checkpoints each has its own.
"""

from __future__ import annotations

import numpy as np

from ....checkpoint.config import LlamaConfig
from ....checkpoint.tensor_names import HEAD
from ....errors import CheckpointError
from ...engine import Floats
from ..heads import cached_heads
from .activations import activate
from .builder import CacheInputs, Graph, Rotary, Scheme
from .tensors import FLOAT, INT32, INT64, Tensor, Value, constant, pad_heads, stack, stored

EMBEDDING = "language_model.model.embed_tokens.weight"


def build(config: LlamaConfig, scheme: Scheme, head: Scheme, tied: bool) -> tuple[Graph, ...]:
    """Inputs and outputs are those of `opt.build`."""
    _check(config)
    d, eps = config.hidden_size, config.rms_norm_eps
    g = Graph("language")
    x = g.input("embeddings", FLOAT, "B", "S", d)
    positions = g.input("positions", INT64, "B", "S")
    lengths, total = g.input("lengths", INT32, "B"), g.input("total", INT32)
    rows = g.input("rows", INT64, "B")
    cache = CacheInputs(lengths, total, rotary=_rotary(g, config, positions))

    update = None
    for i in range(config.num_hidden_layers):
        name = f"language_model.model.layers.{i}"
        norm = stored(f"{name}.input_layernorm.weight", d)
        if update is None:
            normed = g.rms_norm(x, norm, eps)
        else:
            x, normed = g.add_rms_norm(x, update, norm, eps)
        update = _attend(g, config, normed, i, f"{name}.self_attn", scheme, cache)

        x, normed = g.add_rms_norm(x, update, stored(f"{name}.post_attention_layernorm.weight", d), eps)
        update = _feed_forward(g, config, normed, f"{name}.mlp", scheme)

    x = g.op("Add", x, update)
    # Only these states have logits computed, as in `opt.py`.
    x = g.op("Gather", g.op("Reshape", x, g.const([-1, d])), rows, axis=0)
    x = g.rms_norm(x, stored("language_model.model.norm.weight", d), eps)
    logits = g.head(x, stored(EMBEDDING if tied else HEAD, config.vocab_size, d), head)
    g.output(logits, "logits", FLOAT, "B", config.vocab_size)
    return (g,)


def _attend(
    g: Graph, config: LlamaConfig, x: Value, layer: int, name: str, scheme: Scheme, cache: CacheInputs
) -> Value:
    """Rotary positions turn number j of a head's first half together with number j of its second, so queries and
    keys are padded half by half."""
    d, heads, shared = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    _, size = cached_heads(config)
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for part, count in (("q", heads), ("k", shared), ("v", shared)):
        for tensor, into in zip(
            _linear(f"{name}.{part}_proj", count * config.head_dim, d, config.attention_bias),
            (weights, biases),
            strict=True,
        ):
            if tensor is not None:
                halves = 1 if part == "v" else 2
                into.append(pad_heads(tensor, count * halves, size // halves))
    qkv = g.linear(x, stack(*weights), stack(*biases) if biases else None, scheme)
    y = g.cached_attention(qkv, layer, heads, size, config.head_dim**-0.5, cache, shared)
    weight, bias = _linear(f"{name}.o_proj", d, heads * config.head_dim, config.attention_bias)
    return g.linear(y, pad_heads(weight, heads, size, axis=1), bias, scheme)


def _feed_forward(g: Graph, config: LlamaConfig, x: Value, name: str, scheme: Scheme) -> Value:
    """down(act(gate(x)) * up(x)): SwiGLU (Shazeer 2020) with SiLU as the activation."""
    d, f = config.hidden_size, config.intermediate_size
    gate = g.linear(x, *_linear(f"{name}.gate_proj", f, d, config.mlp_bias), scheme)
    up = g.linear(x, *_linear(f"{name}.up_proj", f, d, config.mlp_bias), scheme)
    y = g.op("Mul", activate(g, config.hidden_act, gate), up)
    return g.linear(y, *_linear(f"{name}.down_proj", d, f, config.mlp_bias), scheme)


def _rotary(g: Graph, config: LlamaConfig, positions: Value) -> Rotary:
    """Rotary position embedding (Su et al. 2021): the cosines and sines of every position's angles."""
    _, size = cached_heads(config)
    cos, sin = (np.pad(part, [(0, 0), (0, size // 2 - part.shape[1])]) for part in angles(config))
    return Rotary(g.weight(constant(cos)), g.weight(constant(sin)), positions)


def angles(config: LlamaConfig) -> tuple[Floats, Floats]:
    """Cosine and sine [positions, head_dim / 2] of position * theta ** (-2j / head_dim), in float32 throughout, as
    transformers computes them."""
    steps = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1) / np.power(np.float32(config.rope_theta), steps)
    turned = np.arange(config.max_position_embeddings, dtype=np.float32)[:, None] * frequencies
    return np.cos(turned), np.sin(turned)


def _linear(name: str, n: int, k: int, has_bias: bool) -> tuple[Tensor, Tensor | None]:
    return stored(f"{name}.weight", n, k), stored(f"{name}.bias", n) if has_bias else None


def _check(config: LlamaConfig) -> None:
    if config.rope_type != "default":
        raise CheckpointError(
            f"this LLaMA scales its rotary positions ({config.rope_type[:40]!r}), and the onnx engine does not: "
            "use engine='torch'"
        )
