"""OPT (Zhang et al. 2022), read the way transformers' `OPTConfig` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..fields import end_tokens, pick, require_whole_heads
from ..layout import HEAD, Tensors, linear, norm
from .description import LanguageModel


@dataclass(frozen=True)
class OptConfig:
    """The decoder-only language model (Zhang et al. 2022)."""

    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    ffn_dim: int = 3072
    num_attention_heads: int = 12
    max_position_embeddings: int = 2048
    activation_function: str = "relu"
    do_layer_norm_before: bool = True
    word_embed_proj_dim: int | None = None
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    remove_final_layer_norm: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int = 1
    bos_token_id: int = 2
    eos_token_ids: tuple[int, ...] = (2,)

    kind: ClassVar[str] = "opt"
    is_decoder_only: ClassVar[bool] = True
    has_rotary_positions: ClassVar[bool] = False
    # OPT's position table starts with two rows that no token uses.
    position_offset: ClassVar[int] = 2
    layer_norm_eps: ClassVar[float] = 1e-5

    @property
    def layer_counts(self) -> tuple[int, ...]:
        return (self.num_hidden_layers,)

    @property
    def ties_head(self) -> bool:
        """Whether the head is the table of embeddings, as far as the configuration says."""
        return self.tie_word_embeddings

    @property
    def num_key_value_heads(self) -> int:
        return self.num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def cached_numbers(self) -> int:
        """Numbers in the KV cache per token: keys and values of every layer."""
        return 2 * self.num_hidden_layers * self.hidden_size

    @property
    def feed_forward_numbers(self) -> int:
        """Numbers per token between the matrices of a feed-forward layer."""
        return self.ffn_dim

    @property
    def context_length(self) -> int:
        """Positions the model has, picture tokens included."""
        return self.max_position_embeddings

    @property
    def decoder_start_token_id(self) -> None:
        return None


def _read(raw: dict[str, Any]) -> OptConfig:
    opt: OptConfig = pick(
        OptConfig,
        raw,
        eos_token_ids=end_tokens(raw.get("eos_token_id"), 2),
        remove_final_layer_norm=bool(raw.get("_remove_final_layer_norm", False)),
    )
    require_whole_heads("text", opt.hidden_size, opt.num_attention_heads)
    return opt


def _tensors(text: OptConfig) -> Tensors:
    width = text.hidden_size
    embedding = text.word_embed_proj_dim or width
    decoder = "language_model.model.decoder"
    yield f"{decoder}.embed_tokens.weight", (text.vocab_size, embedding)
    yield f"{decoder}.embed_positions.weight", (text.max_position_embeddings + text.position_offset, width)
    if embedding != width:
        yield from linear(f"{decoder}.project_in", embedding, width, bias=False)
        yield from linear(f"{decoder}.project_out", width, embedding, bias=False)
    has_norms = text.layer_norm_elementwise_affine
    if has_norms and text.do_layer_norm_before and not text.remove_final_layer_norm:
        yield from norm(f"{decoder}.final_layer_norm", width)
    for index in range(text.num_hidden_layers):
        layer = f"{decoder}.layers.{index}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{projection}", width, width, text.enable_bias)
        yield from linear(f"{layer}.fc1", width, text.ffn_dim, text.enable_bias)
        yield from linear(f"{layer}.fc2", text.ffn_dim, width, text.enable_bias)
        if has_norms:
            yield from norm(f"{layer}.self_attn_layer_norm", width)
            yield from norm(f"{layer}.final_layer_norm", width)
    yield HEAD, (text.vocab_size, embedding)


def _around(text: OptConfig, empty: Sequence[int]) -> tuple[list[int], list[int]]:
    """`</s>` comes first."""
    return [text.bos_token_id], []


OPT = LanguageModel(
    kind="opt",
    read=_read,
    tensors=_tensors,
    embeddings=("language_model.model.decoder.embed_tokens.weight",),
    graphs=("language",),
    around=_around,
    image_token=50265,
    adapted="q_proj|k_proj|v_proj|out_proj|fc1|fc2",
    spaces_answers=True,
    may_untie_head=True,
    has_step_graphs=True,
)
