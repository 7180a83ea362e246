"""The Q-Former: its sizes, read the way transformers' `Blip2QFormerConfig` reads them, and its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .fields import pick, require_whole_heads
from .layout import Tensors, linear, norm

# The norm of the input, without and with text: InstructBLIP's has another name.
QFORMER_NORMS = ("qformer.layernorm", "qformer.embeddings.layernorm")


@dataclass(frozen=True)
class QFormerConfig:
    """The querying transformer (Li et al. 2023, section 3.1). Its text branch is used where it reads the instruction
    too (`use_qformer_text_input`; InstructBLIP, Dai et al. 2023)."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    cross_attention_frequency: int = 2
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    use_qformer_text_input: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def has_cross_attention(self, layer: int) -> bool:
        return layer % self.cross_attention_frequency == 0


def read_qformer(whole: dict[str, Any], reads_instruction: bool = False) -> QFormerConfig:
    """The Q-Former of a parsed `config.json`; `TypeError` or `ValueError` for one that cannot be."""
    raw = dict(whole.get("qformer_config") or {})
    config: QFormerConfig = pick(QFormerConfig, raw, use_qformer_text_input=reads_instruction)
    require_whole_heads("qformer", config.hidden_size, config.num_attention_heads)
    return config


def qformer_tensors(qformer: QFormerConfig, queries: int, pictures: int, *, reads_text: bool) -> Tensors:
    """The tensors in the official layout, those of the query tokens included. `queries`: how many there are;
    `pictures`: the picture encoder's width; `reads_text`: whether it has feed-forward layers for words, too."""
    width = qformer.hidden_size
    branches = ("_query", "") if reads_text else ("_query",)
    yield "query_tokens", (1, queries, width)
    if qformer.use_qformer_text_input:
        yield "qformer.embeddings.word_embeddings.weight", (qformer.vocab_size, width)
        yield "qformer.embeddings.position_embeddings.weight", (qformer.max_position_embeddings, width)
    yield from norm(QFORMER_NORMS[qformer.use_qformer_text_input], width)
    for index in range(qformer.num_hidden_layers):
        layer = f"qformer.encoder.layer.{index}"
        yield from _attention(f"{layer}.attention", width, width)
        if qformer.has_cross_attention(index):
            yield from _attention(f"{layer}.crossattention", width, pictures)
        for branch in branches:
            yield from linear(f"{layer}.intermediate{branch}.dense", width, qformer.intermediate_size)
            yield from linear(f"{layer}.output{branch}.dense", qformer.intermediate_size, width)
            yield from norm(f"{layer}.output{branch}.LayerNorm", width)


def _attention(name: str, width: int, source: int) -> Tensors:
    """`source` is the width of what is attended to: the Q-Former's own, or the picture encoder's."""
    yield from linear(f"{name}.attention.query", width, width)
    yield from linear(f"{name}.attention.key", source, width)
    yield from linear(f"{name}.attention.value", source, width)
    yield from linear(f"{name}.output.dense", width, width)
    yield from norm(f"{name}.output.LayerNorm", width)
