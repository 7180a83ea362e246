"""The width of attention heads as GroupQueryAttention takes them, for graphs and caches alike."""

from __future__ import annotations

from ...checkpoint.text_config import DecoderOnly


def head_size(head_dim: int, multiple: int = 8) -> int:
    """A cached head's width: GroupQueryAttention needs a multiple of 8, and of 16 with rotary positions."""
    return -(-head_dim // multiple) * multiple


def cached_heads(text: DecoderOnly) -> tuple[int, int]:
    """(Heads of keys and values per layer, the width of each) in a decoder-only model's KV cache."""
    return text.num_key_value_heads, head_size(text.head_dim, 16 if text.has_rotary_positions else 8)
