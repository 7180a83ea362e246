"""The language models' shapes, read from `text_config` the way transformers reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import CheckpointError
from ..system.small_files import shown
from .fields import pick, require_whole_heads

LanguageModelKind = Literal["opt", "t5", "llama"]

# Tables of relative positions are as long as a size says, without a file that proves it.
_FARTHEST = 1 << 16
# LLaMA's `</s>`.
_LLAMA_EOS = 2


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

    kind: LanguageModelKind = "opt"
    is_decoder_only: bool = True
    # OPT's position table starts with two rows that no token uses.
    position_offset: int = 2
    layer_norm_eps: float = 1e-5

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

    kind: LanguageModelKind = "t5"
    is_decoder_only: bool = False
    # Relative positions have no end; the model was trained on prompts of this length.
    context_length: int = 512

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
    # What ends an answer: the configured tokens and LLaMA's own `</s>` (see `_llama`).
    eos_token_ids: tuple[int, ...] = (2,)

    kind: LanguageModelKind = "llama"
    is_decoder_only: bool = True

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


TextConfig = OptConfig | T5Config | LlamaConfig


def read_text_config(raw: dict[str, Any], where: str) -> TextConfig:
    """The parsed `text_config`; `where` names the file in errors. `CheckpointError` for another language model,
    `ValueError` for one that cannot be."""
    kind = raw.get("model_type", "opt")
    if not isinstance(kind, str) or kind not in _READERS:
        raise CheckpointError(
            f"{where}: the language model is {shown(kind)}; this package knows 'opt', 't5' and 'llama'",
            path=where,
        )
    text = _READERS[kind](raw)
    _require_tokens(text)
    return text


def _opt(raw: dict[str, Any]) -> OptConfig:
    opt: OptConfig = pick(
        OptConfig,
        raw,
        eos_token_ids=_ids(raw.get("eos_token_id"), 2),
        remove_final_layer_norm=bool(raw.get("_remove_final_layer_norm", False)),
    )
    require_whole_heads("text", opt.hidden_size, opt.num_attention_heads)
    return opt


def _t5(raw: dict[str, Any]) -> T5Config:
    _require_feed_forward(str(raw.get("feed_forward_proj", T5Config.feed_forward_proj)))
    layers = int(raw.get("num_layers", T5Config.num_layers))
    t5: T5Config = pick(
        T5Config,
        raw,
        num_decoder_layers=int(raw.get("num_decoder_layers") or layers),
        scale_decoder_outputs=bool(
            raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings") is not False)
        ),
        eos_token_ids=_ids(raw.get("eos_token_id"), 1),
    )
    _require_distances(t5)
    return t5


def _llama(raw: dict[str, Any]) -> LlamaConfig:
    """The ids in Vicuna's configuration (bos 0, eos 1) are not its tokenizer's, in which `</s>` is 2: an answer ends
    with either (https://github.com/salesforce/LAVIS/issues/335)."""
    configured = _ids(raw.get("eos_token_id"), _LLAMA_EOS)
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
    llama: LlamaConfig = pick(
        LlamaConfig, found, eos_token_ids=tuple(dict.fromkeys((*configured, _LLAMA_EOS)))
    )
    if llama.num_attention_heads % llama.num_key_value_heads:
        raise ValueError(
            f"num_attention_heads {llama.num_attention_heads} is not a multiple of num_key_value_heads "
            f"{llama.num_key_value_heads}"
        )
    if llama.head_dim % 2:
        raise ValueError(f"head_dim is {llama.head_dim}: rotary positions turn pairs of numbers")
    return llama


_READERS: dict[Any, Callable[[dict[str, Any]], TextConfig]] = {"opt": _opt, "t5": _t5, "llama": _llama}


def _require_feed_forward(name: str) -> None:
    """Transformers' own rule: an activation's name, or "gated-" and one."""
    parts = name.split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        raise ValueError(f"feed_forward_proj is {shown(name)}, and not an activation or gated-ACTIVATION")


def _ids(value: object, default: int) -> tuple[int, ...]:
    """`eos_token_id`: one token, or several that end an answer."""
    found = value if isinstance(value, list) else [default if value is None else value]
    if not found or not all(type(token) is int for token in found):
        raise ValueError(f"eos_token_id is {shown(value)}")
    return tuple(found)


def _require_tokens(text: TextConfig) -> None:
    """The tokens that the package itself puts into prompts and looks for in answers are in the vocabulary."""
    named = {"decoder_start_token_id": text.decoder_start_token_id}
    if not isinstance(text, LlamaConfig):
        named["bos_token_id"] = text.bos_token_id
    for name, token in [*named.items(), *(("eos_token_id", token) for token in text.eos_token_ids)]:
        if token is not None and not 0 <= token < text.vocab_size:
            raise ValueError(f"{name} is {shown(token)}, and the vocabulary has {text.vocab_size} tokens")


def _require_distances(t5: T5Config) -> None:
    """Near distances have a bucket each, far ones share the rest: both kinds must exist."""
    buckets, most = t5.relative_attention_num_buckets, t5.relative_attention_max_distance
    if not 4 <= buckets <= _FARTHEST or not buckets // 2 < most <= _FARTHEST:
        raise ValueError(f"relative positions with {buckets} buckets up to distance {most} do not exist")
