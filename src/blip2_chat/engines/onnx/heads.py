"""The width of attention heads as GroupQueryAttention takes them, for graphs and caches alike."""

from __future__ import annotations


def head_size(head_dim: int) -> int:
    """A cached head's width: GroupQueryAttention wants a multiple of 8."""
    return -(-head_dim // 8) * 8
