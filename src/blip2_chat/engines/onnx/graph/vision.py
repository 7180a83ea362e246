"""The picture encoder: a ViT (Dosovitskiy et al. 2021) with pre-LayerNorm, EVA ViT-g/14 in the official checkpoints.

Mirrors transformers' `Blip2VisionModel`; the penultimate layer's output was what the authors trained on, so the
checkpoints have 39 layers of ViT-g's 40 and a LayerNorm of their own after them.
"""

from __future__ import annotations

from ....checkpoint.config import VisionConfig
from .activations import activate
from .builder import Graph, Scheme
from .tensors import Tensor, Value, stored


def encode(g: Graph, pixels: Value, config: VisionConfig, scheme: Scheme) -> Value:
    """pixels [B, 3, image_size, image_size] -> picture features [B, num_positions, hidden_size]."""
    d, f, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
    x = _embed(g, pixels, config)
    normed = g.layer_norm(x, *_norm("vision_model.encoder.layers.0.layer_norm1", d), eps)
    for i in range(config.num_hidden_layers):
        name = f"vision_model.encoder.layers.{i}"
        weight, bias = _linear(f"{name}.self_attn.qkv", 3 * d, d)
        qkv = g.linear(normed, weight, bias if config.qkv_bias else None, scheme)
        q, k, v = g.ops("Split", qkv, outputs=3, axis=-1, num_outputs=3)
        y = g.attention(q, k, v, config.num_attention_heads, config.head_dim**-0.5)
        y = g.linear(y, *_linear(f"{name}.self_attn.projection", d, d), scheme)
        x, normed = g.add_layer_norm(x, y, *_norm(f"{name}.layer_norm2", d), eps)

        y = g.linear(normed, *_linear(f"{name}.mlp.fc1", f, d), scheme)
        y = g.linear(activate(g, config.hidden_act, y), *_linear(f"{name}.mlp.fc2", d, f), scheme)
        last = i == config.num_hidden_layers - 1
        norm = "vision_model.post_layernorm" if last else f"vision_model.encoder.layers.{i + 1}.layer_norm1"
        x, normed = g.add_layer_norm(x, y, *_norm(norm, d), eps)
    return normed


def _linear(name: str, n: int, k: int) -> tuple[Tensor, Tensor]:
    return stored(f"{name}.weight", n, k), stored(f"{name}.bias", n)


def _norm(name: str, d: int) -> tuple[Tensor, Tensor]:
    return stored(f"{name}.weight", d), stored(f"{name}.bias", d)


def _embed(g: Graph, pixels: Value, config: VisionConfig) -> Value:
    """Patches as vectors, the class token before them, positions added: [B, num_positions, hidden_size]."""
    d, p = config.hidden_size, config.patch_size
    name = "vision_model.embeddings"
    patches = g.op(
        "Conv",
        pixels,
        g.weight(stored(f"{name}.patch_embedding.weight", d, 3, p, p)),
        g.weight(stored(f"{name}.patch_embedding.bias", d)),
        strides=[p, p],
    )
    patches = g.op("Transpose", g.op("Reshape", patches, g.const([0, d, -1])), perm=[0, 2, 1])
    batch = g.op("Shape", pixels, start=0, end=1)
    class_token = g.weight(stored(f"{name}.class_embedding", 1, 1, d))
    class_token = g.op("Expand", class_token, g.op("Concat", batch, g.const([1, 1]), axis=0))
    tokens = g.op("Concat", class_token, patches, axis=1)
    positions = g.weight(stored(f"{name}.position_embedding", 1, config.num_positions, d))
    return g.op("Add", tokens, positions)
