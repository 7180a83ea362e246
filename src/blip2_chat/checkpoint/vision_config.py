"""The picture encoder: its sizes, read the way transformers' `Blip2VisionConfig` reads them, and its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..system.small_files import shown
from .fields import pick, require_whole_heads
from .layout import Tensors, linear, norm


@dataclass(frozen=True)
class VisionConfig:
    """The picture encoder: EVA ViT-g/14 in the official checkpoints (Fang et al. 2022)."""

    hidden_size: int = 1408
    intermediate_size: int = 6144
    num_hidden_layers: int = 39
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_positions(self) -> int:
        """Patches and the class token."""
        return self.num_patches + 1

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


def read_vision(whole: dict[str, Any]) -> VisionConfig:
    """The picture encoder of a parsed `config.json`; `TypeError` or `ValueError` for one that cannot be."""
    raw = dict(whole.get("vision_config") or {})
    sides = {
        name: _square(raw[name], name) for name in ("image_size", "patch_size") if raw.get(name) is not None
    }
    config: VisionConfig = pick(VisionConfig, {**raw, **sides})
    require_whole_heads("vision", config.hidden_size, config.num_attention_heads)
    if config.patch_size > config.image_size:
        raise ValueError(f"patch_size {config.patch_size} is larger than image_size {config.image_size}")
    return config


def _square(value: int | list[int], name: str) -> int:
    if isinstance(value, int):
        return value
    sides = [int(side) for side in value]
    if len(set(sides)) != 1:
        raise ValueError(f"{name} {shown(value)} is not square")
    return sides[0]


def vision_tensors(vision: VisionConfig) -> Tensors:
    """The picture encoder's tensors in the official layout."""
    width = vision.hidden_size
    yield "vision_model.embeddings.class_embedding", (1, 1, width)
    yield "vision_model.embeddings.position_embedding", (1, vision.num_positions, width)
    yield "vision_model.embeddings.patch_embedding.weight", (width, 3, vision.patch_size, vision.patch_size)
    yield "vision_model.embeddings.patch_embedding.bias", (width,)
    for index in range(vision.num_hidden_layers):
        layer = f"vision_model.encoder.layers.{index}"
        yield from norm(f"{layer}.layer_norm1", width)
        yield from linear(f"{layer}.self_attn.qkv", width, 3 * width, vision.qkv_bias)
        yield from linear(f"{layer}.self_attn.projection", width, width)
        yield from norm(f"{layer}.layer_norm2", width)
        yield from linear(f"{layer}.mlp.fc1", width, vision.intermediate_size)
        yield from linear(f"{layer}.mlp.fc2", vision.intermediate_size, width)
    yield from norm("vision_model.post_layernorm", width)
