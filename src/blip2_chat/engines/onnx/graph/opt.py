"""OPT (Zhang et al. 2022): a pre-LayerNorm decoder with learned positions and a head tied to the embedding.

One graph serves prefill and step: S new tokens per row after those in the KV buffers. Rows may differ in length;
a row shorter than S is padded at its end, where the causal mask hides the padding and the next call overwrites
it.
"""

from __future__ import annotations

import numpy as np

from ....checkpoint.config import OptConfig
from ....checkpoint.tensor_names import HEAD
from ....errors import CheckpointError
from ..heads import cached_heads
from .activations import activate
from .builder import CacheInputs, Graph, Scheme
from .tensors import FLOAT, INT32, INT64, Tensor, constant, pad_heads, stack, stored

EMBEDDING = "language_model.model.decoder.embed_tokens.weight"


def build(config: OptConfig, scheme: Scheme, head: Scheme, tied: bool) -> tuple[Graph, ...]:
    """Inputs: `embeddings` [B, S, D] (tokens and query vectors), `positions` [B, S], `lengths` and `total`
    (see `CacheInputs`), `rows` [B]: of the B*S hidden states those to have logits of; `past_*`. Outputs: `logits`
    [B, V], `present_*`."""
    _check(config)
    d, heads, eps = config.hidden_size, config.num_attention_heads, config.layer_norm_eps
    _, size = cached_heads(config)
    g = Graph("language")
    embeddings = g.input("embeddings", FLOAT, "B", "S", d)
    positions = g.input("positions", INT64, "B", "S")
    cache = CacheInputs(g.input("lengths", INT32, "B"), g.input("total", INT32))
    rows = g.input("rows", INT64, "B")

    decoder = "language_model.model.decoder"
    table = stored(
        f"{decoder}.embed_positions.weight", config.max_position_embeddings + config.position_offset, d
    )
    # The offset is cut off here, so that positions count from 0.
    table = table.map(lambda t: t[config.position_offset :].copy(), config.max_position_embeddings, d)
    x = g.op("Add", embeddings, g.table(table, positions))

    update = None
    for i in range(config.num_hidden_layers):
        name = f"{decoder}.layers.{i}"
        norm = _norm(config, f"{name}.self_attn_layer_norm")
        if update is None:
            normed = g.layer_norm(x, *norm, eps)
        else:
            x, normed = g.add_layer_norm(x, update, *norm, eps)

        parts = [_linear(config, f"{name}.self_attn.{part}_proj", d, d) for part in "qkv"]
        weight = stack(*(pad_heads(weight, heads, size) for weight, _ in parts))
        bias = (
            stack(*(pad_heads(bias, heads, size) for _, bias in parts if bias is not None))
            if parts[0][1]
            else None
        )
        qkv = g.linear(normed, weight, bias, scheme)
        y = g.cached_attention(qkv, i, heads, size, config.head_dim**-0.5, cache)
        weight, bias = _linear(config, f"{name}.self_attn.out_proj", d, d)
        update = g.linear(y, pad_heads(weight, heads, size, axis=1), bias, scheme)

        x, normed = g.add_layer_norm(x, update, *_norm(config, f"{name}.final_layer_norm"), eps)
        y = g.linear(normed, *_linear(config, f"{name}.fc1", config.ffn_dim, d), scheme)
        y = activate(g, config.activation_function, y)
        update = g.linear(y, *_linear(config, f"{name}.fc2", d, config.ffn_dim), scheme)

    x = g.op("Add", x, update)
    # Only these states have logits computed: the head is as large as two layers.
    x = g.op("Gather", g.op("Reshape", x, g.const([-1, d])), rows, axis=0)
    if not config.remove_final_layer_norm:
        x = g.layer_norm(x, *_norm(config, f"{decoder}.final_layer_norm"), eps)
    logits = g.head(x, stored(EMBEDDING if tied else HEAD, config.vocab_size, d), head)
    g.output(logits, "logits", FLOAT, "B", config.vocab_size)
    return (g,)


def _linear(config: OptConfig, name: str, n: int, k: int) -> tuple[Tensor, Tensor | None]:
    return stored(f"{name}.weight", n, k), stored(f"{name}.bias", n) if config.enable_bias else None


def _norm(config: OptConfig, name: str) -> tuple[Tensor, Tensor]:
    d = config.hidden_size
    if not config.layer_norm_elementwise_affine:
        return constant(np.ones(d, np.float32)), constant(np.zeros(d, np.float32))
    return stored(f"{name}.weight", d), stored(f"{name}.bias", d)


def _check(config: OptConfig) -> None:
    if config.word_embed_proj_dim not in (None, config.hidden_size):
        raise CheckpointError(
            f"this OPT has embeddings of another width ({config.word_embed_proj_dim}) than its layers "
            f"({config.hidden_size}), as opt-350m; BLIP-2's have one width"
        )
    if not config.do_layer_norm_before:
        raise CheckpointError(
            "this OPT normalises after its layers (as opt-350m); BLIP-2's do so before them, and the onnx engine "
            "knows no other: use engine='torch'"
        )
