"""T5 (Raffel et al. 2020; Flan-T5: Chung et al. 2022), read the way transformers' `T5Config` reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...system.small_files import shown
from ..fields import end_tokens, pick
from ..layout import HEAD, Tensors, linear
from .description import LanguageModel

# Tables of relative positions are as long as a size says, without a file that proves it.
_FARTHEST = 1 << 16


@dataclass(frozen=True)
class T5Config:
    """The encoder-decoder language model (Raffel et al. 2020; Flan-T5: Chung et al. 2022)."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    # The official configurations say "gated-gelu" and, beside it, "gelu": a key that is there overrides what
    # `feed_forward_proj` means, as in transformers.
    dense_act_fn: str | None = None
    is_gated_act: bool | None = None
    # T5 1.0 scales the decoder's output by d_model**-0.5 before the head; 1.1 and Flan do not, and their
    # configurations tell it by `tie_word_embeddings: false`. Whether the head is tied, the weights tell.
    scale_decoder_outputs: bool = True
    pad_token_id: int = 0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = (1,)
    decoder_start_token_id: int = 0

    kind: ClassVar[str] = "t5"
    is_decoder_only: ClassVar[bool] = False
    # Relative positions have no end; the model was trained on prompts of this length.
    context_length: ClassVar[int] = 512

    @property
    def layer_counts(self) -> tuple[int, ...]:
        return self.num_layers, self.num_decoder_layers

    @property
    def ties_head(self) -> bool:
        """Whether the head is the table of embeddings: a guess from the generation (1.0 is tied, 1.1 and Flan are
        not), and the weights know better."""
        return self.scale_decoder_outputs

    @property
    def hidden_size(self) -> int:
        return self.d_model

    @property
    def inner_dim(self) -> int:
        return self.num_heads * self.d_kv

    @property
    def num_attention_heads(self) -> int:
        return self.num_heads

    @property
    def cached_numbers(self) -> int:
        """Numbers in the decoder's KV cache per token; those over the encoder's output are as many again."""
        return 2 * self.num_decoder_layers * self.inner_dim

    @property
    def feed_forward_numbers(self) -> int:
        """Numbers per token between the matrices of a feed-forward layer."""
        return 2 * self.d_ff

    @property
    def is_gated(self) -> bool:
        by_name = self.feed_forward_proj.startswith("gated-")
        return by_name if self.is_gated_act is None else self.is_gated_act

    @property
    def activation(self) -> str:
        """`dense_act_fn`. Where a configuration has none, what transformers reads from `feed_forward_proj`:
        `gelu_new` for `gated-gelu`, else the name after `gated-`."""
        if self.dense_act_fn is not None:
            return self.dense_act_fn
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.split("-")[-1]


def _read(raw: dict[str, Any]) -> T5Config:
    _require_feed_forward(str(raw.get("feed_forward_proj", T5Config.feed_forward_proj)))
    layers = int(raw.get("num_layers", T5Config.num_layers))
    t5: T5Config = pick(
        T5Config,
        raw,
        num_decoder_layers=int(raw.get("num_decoder_layers") or layers),
        scale_decoder_outputs=bool(
            raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings") is not False)
        ),
        eos_token_ids=end_tokens(raw.get("eos_token_id"), 1),
    )
    _require_distances(t5)
    return t5


def _require_feed_forward(name: str) -> None:
    """Transformers' own rule: an activation's name, or "gated-" and one."""
    parts = name.split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        raise ValueError(f"feed_forward_proj is {shown(name)}, and not an activation or gated-ACTIVATION")


def _require_distances(t5: T5Config) -> None:
    """Near distances have a bucket each, far ones share the rest: both kinds must exist."""
    buckets, most = t5.relative_attention_num_buckets, t5.relative_attention_max_distance
    if not 4 <= buckets <= _FARTHEST or not buckets // 2 < most <= _FARTHEST:
        raise ValueError(f"relative positions with {buckets} buckets up to distance {most} do not exist")


def _tensors(text: T5Config) -> Tensors:
    table = (text.vocab_size, text.d_model)
    yield "language_model.shared.weight", table
    for stack, layers in (("encoder", text.num_layers), ("decoder", text.num_decoder_layers)):
        yield f"language_model.{stack}.embed_tokens.weight", table
        for index in range(layers):
            block = f"language_model.{stack}.block.{index}.layer"
            yield from _attention(f"{block}.0", "SelfAttention", text)
            if index == 0:
                # Only the first block has the table of relative positions; the others use its values.
                bias = f"{block}.0.SelfAttention.relative_attention_bias.weight"
                yield bias, (text.relative_attention_num_buckets, text.num_heads)
            if stack == "decoder":
                yield from _attention(f"{block}.1", "EncDecAttention", text)
            feed_forward = f"{block}.{2 if stack == 'decoder' else 1}"
            for name in ("wi_0", "wi_1") if text.is_gated else ("wi",):
                yield from linear(
                    f"{feed_forward}.DenseReluDense.{name}", text.d_model, text.d_ff, bias=False
                )
            yield from linear(f"{feed_forward}.DenseReluDense.wo", text.d_ff, text.d_model, bias=False)
            yield f"{feed_forward}.layer_norm.weight", (text.d_model,)
        yield f"language_model.{stack}.final_layer_norm.weight", (text.d_model,)
    yield HEAD, table


def _attention(layer: str, kind: str, text: T5Config) -> Tensors:
    for projection in ("q", "k", "v"):
        yield from linear(f"{layer}.{kind}.{projection}", text.d_model, text.inner_dim, bias=False)
    yield from linear(f"{layer}.{kind}.o", text.inner_dim, text.d_model, bias=False)
    yield f"{layer}.layer_norm.weight", (text.d_model,)


def _around(text: T5Config, empty: Sequence[int]) -> tuple[list[int], list[int]]:
    """`</s>` comes last."""
    return [], [text.eos_token_ids[0]]


T5 = LanguageModel(
    kind="t5",
    read=_read,
    tensors=_tensors,
    embeddings=tuple(
        f"language_model.{stem}.weight" for stem in ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
    ),
    graphs=("prompt", "language"),
    around=_around,
    image_token=32100,
    adapted="q|k|v|o|wi|wi_0|wi_1|wo",
    weights_tell_tied_head=True,
    unquantised=".wo",
)
