"""LLaMA (Touvron et al. 2023), which Vicuna is, read the way transformers' `LlamaConfig` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...system.small_files import shown
from ..fields import end_tokens, pick
from ..layout import HEAD, Tensors, linear
from .description import LanguageModel

# LLaMA's `</s>`.
_EOS = 2


@dataclass(frozen=True)
class LlamaConfig:
    """The decoder-only language model of the Vicuna checkpoints (Touvron et al. 2023)."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    head_dim: int = 128
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    # RoPE (Su et al. 2021): its base, and the kind of scaling, if any.
    rope_theta: float = 10000.0
    rope_type: str = "default"
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    # What ends an answer: the configured tokens and LLaMA's own `</s>` (see `_read`).
    eos_token_ids: tuple[int, ...] = (2,)

    kind: ClassVar[str] = "llama"
    is_decoder_only: ClassVar[bool] = True
    has_rotary_positions: ClassVar[bool] = True

    @property
    def layer_counts(self) -> tuple[int, ...]:
        return (self.num_hidden_layers,)

    @property
    def ties_head(self) -> bool:
        """Whether the head is the table of embeddings, as far as the configuration says."""
        return self.tie_word_embeddings

    @property
    def bos_token_id(self) -> None:
        """The tokenizer says it."""
        return None

    @property
    def cached_numbers(self) -> int:
        """Numbers in the KV cache per token: keys and values of every layer."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    @property
    def feed_forward_numbers(self) -> int:
        """Numbers per token between the matrices of a feed-forward layer."""
        return 2 * self.intermediate_size

    @property
    def context_length(self) -> int:
        """Positions the model has, picture tokens included."""
        return self.max_position_embeddings

    @property
    def decoder_start_token_id(self) -> None:
        return None


def _read(raw: dict[str, Any]) -> LlamaConfig:
    """The ids in Vicuna's configuration (bos 0, eos 1) are not its tokenizer's, in which `</s>` is 2: an answer ends
    with either (https://github.com/salesforce/LAVIS/issues/335)."""
    configured = end_tokens(raw.get("eos_token_id"), _EOS)
    # Transformers 5 writes the keys of RoPE into one.
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"rope_parameters is {shown(rope)}")
    found = {
        "rope_theta": rope.get("rope_theta"),
        "rope_type": rope.get("rope_type", rope.get("type")),
        **{name: value for name, value in raw.items() if value is not None},
    }
    heads = found.get("num_attention_heads", LlamaConfig.num_attention_heads)
    found.setdefault("num_key_value_heads", heads)
    found.setdefault("head_dim", found.get("hidden_size", LlamaConfig.hidden_size) // max(int(heads), 1))
    llama: LlamaConfig = pick(LlamaConfig, found, eos_token_ids=tuple(dict.fromkeys((*configured, _EOS))))
    if llama.num_attention_heads % llama.num_key_value_heads:
        raise ValueError(
            f"num_attention_heads {llama.num_attention_heads} is not a multiple of num_key_value_heads "
            f"{llama.num_key_value_heads}"
        )
    if llama.head_dim % 2:
        raise ValueError(f"head_dim is {llama.head_dim}: rotary positions turn pairs of numbers")
    return llama


def _tensors(text: LlamaConfig) -> Tensors:
    width, heads = text.hidden_size, text.num_attention_heads
    inner, shared = heads * text.head_dim, text.num_key_value_heads * text.head_dim
    yield "language_model.model.embed_tokens.weight", (text.vocab_size, width)
    for index in range(text.num_hidden_layers):
        layer = f"language_model.model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", (width,)
        yield from linear(f"{layer}.self_attn.q_proj", width, inner, text.attention_bias)
        yield from linear(f"{layer}.self_attn.k_proj", width, shared, text.attention_bias)
        yield from linear(f"{layer}.self_attn.v_proj", width, shared, text.attention_bias)
        yield from linear(f"{layer}.self_attn.o_proj", inner, width, text.attention_bias)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
        yield from linear(f"{layer}.mlp.gate_proj", width, text.intermediate_size, text.mlp_bias)
        yield from linear(f"{layer}.mlp.up_proj", width, text.intermediate_size, text.mlp_bias)
        yield from linear(f"{layer}.mlp.down_proj", text.intermediate_size, width, text.mlp_bias)
    yield "language_model.model.norm.weight", (width,)
    yield HEAD, (text.vocab_size, width)


def _around(text: LlamaConfig, empty: Sequence[int]) -> tuple[list[int], list[int]]:
    """What the tokenizer says comes first: Vicuna's is `</s>`, and its configuration has another."""
    return [*empty] or [text.eos_token_ids[-1]], []


LLAMA = LanguageModel(
    kind="llama",
    read=_read,
    tensors=_tensors,
    embeddings=("language_model.model.embed_tokens.weight",),
    graphs=("language",),
    around=_around,
    image_token=32001,
    adapted="q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj",
    has_byte_pieces=True,
)
