"""The official checkpoint layout: which tensors a model of a given shape has, and how many numbers they hold.

Everything here follows from the configuration alone: no file is read, nothing large is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from typing import Literal

from ..errors import CheckpointError
from .config import LlamaConfig, ModelConfig, OptConfig, T5Config
from .retrieval_config import AnyConfig, RetrievalConfig

Shape = tuple[int, ...]
Part = Literal["vision", "qformer", "language_model"]
PARTS: tuple[Part, ...] = ("vision", "qformer", "language_model")

HEAD = "language_model.lm_head.weight"
# The norm of the Q-Former's input, without and with text: InstructBLIP's has another name.
QFORMER_NORMS = ("qformer.layernorm", "qformer.embeddings.layernorm")

# Tensors that a checkpoint may have and a chat model does not use: the Q-Former's text branch where it reads no text,
# buffers that old versions stored, positions of T5's cross-attention.
_UNUSED = re.compile(
    r"embeddings\..*"
    r"|qformer\.embeddings\..*"
    r"|qformer\.encoder\.layer\.\d+\.(intermediate|output)\..*"
    r"|(vision|text)_projection\..*|itm_head\..*"
    r"|language_model\.decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
    r"|.*\.(position_ids|rotary_emb\.inv_freq)"
)

# Far above any real model; a config.json that claims millions of layers would fill the memory with names.
_MOST_LAYERS = 1024


def expected_tensors(config: AnyConfig) -> dict[str, Shape]:
    """Every tensor of the official layout by its name, with its shape.

    The Q-Former has its query branch only, unless it reads text: other checkpoints that were trained on texts hold
    more (`is_unused`). Names of one tensor (`aliases`) are all listed, although a file needs only one of them.
    """
    _check_layers(config)
    if isinstance(config, RetrievalConfig):
        return {**dict(_vision(config)), **dict(_retrieval(config))}
    return {
        **dict(_vision(config)),
        **dict(_qformer(config)),
        **dict(_language_model(config)),
    }


def aliases(config: AnyConfig, tied_head: bool | None = None) -> tuple[str, ...]:
    """The names that stand for the language model's token embeddings, the official one first: a file holds at least
    one. Nothing for a model that has none.

    Safetensors files keep shared memory once, and which name survives depends on the version that wrote them.
    `tied_head` says whether the head is the embeddings; None: as the configuration has it. For T5 that is a
    guess from its generation (1.0 is tied, 1.1 and Flan are not), and a file that was read knows better.
    """
    if isinstance(config, RetrievalConfig):
        return ()
    text = config.text
    if not isinstance(text, T5Config):
        tied = text.tie_word_embeddings if tied_head is None else tied_head
        inside = "model.decoder" if isinstance(text, OptConfig) else "model"
        names = [f"language_model.{inside}.embed_tokens.weight"]
    else:
        tied = text.scale_decoder_outputs if tied_head is None else tied_head
        stems = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
        names = [f"language_model.{stem}.weight" for stem in stems]
    return (*names, HEAD) if tied else tuple(names)


def is_unused(name: str, config: AnyConfig) -> bool:
    """Whether a checkpoint may hold this tensor beside `expected_tensors`."""
    if isinstance(config, RetrievalConfig) and name.startswith(("language_model.", "language_projection.")):
        return True  # some are saved with the language model that their configuration has by default
    return _UNUSED.fullmatch(name) is not None


def part_of(name: str) -> Part:
    """The part a tensor belongs to. Query tokens and projection count with the Q-Former."""
    if name.startswith("vision_model."):
        return "vision"
    return "language_model" if name.startswith("language_model.") else "qformer"


def distinct_tensors(config: AnyConfig, tied_head: bool | None = None) -> dict[str, Shape]:
    """`expected_tensors` with aliased tensors once: what memory holds. `tied_head` as in `aliases`."""
    again = aliases(config, tied_head)[1:]
    return {name: shape for name, shape in expected_tensors(config).items() if name not in again}


def count_parameters(config: AnyConfig, tied_head: bool | None = None) -> dict[Part, int]:
    """Numbers held per part, aliased tensors counted once. `tied_head` as in `aliases`."""
    counts: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for name, shape in distinct_tensors(config, tied_head).items():
        counts[part_of(name)] += prod(shape)
    return counts


def _check_layers(config: AnyConfig) -> None:
    layers = [config.vision.num_hidden_layers, config.qformer.num_hidden_layers]
    if not isinstance(config, RetrievalConfig):
        text = config.text
        layers += (
            [text.num_layers, text.num_decoder_layers]
            if isinstance(text, T5Config)
            else [text.num_hidden_layers]
        )
    if not all(0 <= count <= _MOST_LAYERS for count in layers):
        raise CheckpointError(f"config.json has {max(layers, key=abs)} layers; no BLIP-2 model has")


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _vision(config: AnyConfig) -> Iterator[tuple[str, Shape]]:
    vision = config.vision
    width = vision.hidden_size
    yield "vision_model.embeddings.class_embedding", (1, 1, width)
    yield "vision_model.embeddings.position_embedding", (1, vision.num_positions, width)
    yield "vision_model.embeddings.patch_embedding.weight", (width, 3, vision.patch_size, vision.patch_size)
    yield "vision_model.embeddings.patch_embedding.bias", (width,)
    for index in range(vision.num_hidden_layers):
        layer = f"vision_model.encoder.layers.{index}"
        yield from _norm(f"{layer}.layer_norm1", width)
        yield from _linear(f"{layer}.self_attn.qkv", width, 3 * width, vision.qkv_bias)
        yield from _linear(f"{layer}.self_attn.projection", width, width)
        yield from _norm(f"{layer}.layer_norm2", width)
        yield from _linear(f"{layer}.mlp.fc1", width, vision.intermediate_size)
        yield from _linear(f"{layer}.mlp.fc2", vision.intermediate_size, width)
    yield from _norm("vision_model.post_layernorm", width)


def _qformer(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    yield from _qformer_layers(config, ("_query", "") if config.reads_instruction else ("_query",))
    yield from _linear("language_projection", config.qformer.hidden_size, config.text.hidden_size)


def _retrieval(config: RetrievalConfig) -> Iterator[tuple[str, Shape]]:
    qformer = config.qformer
    width = qformer.hidden_size
    yield "embeddings.word_embeddings.weight", (qformer.vocab_size, width)
    yield "embeddings.position_embeddings.weight", (qformer.max_position_embeddings, width)
    yield from _qformer_layers(config, ("_query", ""))
    yield from _linear("vision_projection", width, config.embedding_size)
    yield from _linear("text_projection", width, config.embedding_size)
    yield from _linear("itm_head", width, 2)


def _qformer_layers(config: AnyConfig, branches: tuple[str, ...]) -> Iterator[tuple[str, Shape]]:
    """`branches`: whose feed-forward layers there are, the queries' and those of words."""
    qformer = config.qformer
    width = qformer.hidden_size
    yield "query_tokens", (1, config.num_query_tokens, width)
    if qformer.use_qformer_text_input:
        yield "qformer.embeddings.word_embeddings.weight", (qformer.vocab_size, width)
        yield "qformer.embeddings.position_embeddings.weight", (qformer.max_position_embeddings, width)
    yield from _norm(QFORMER_NORMS[qformer.use_qformer_text_input], width)
    for index in range(qformer.num_hidden_layers):
        layer = f"qformer.encoder.layer.{index}"
        yield from _qformer_attention(f"{layer}.attention", width, width)
        if qformer.has_cross_attention(index):
            yield from _qformer_attention(f"{layer}.crossattention", width, config.vision.hidden_size)
        for branch in branches:
            yield from _linear(f"{layer}.intermediate{branch}.dense", width, qformer.intermediate_size)
            yield from _linear(f"{layer}.output{branch}.dense", qformer.intermediate_size, width)
            yield from _norm(f"{layer}.output{branch}.LayerNorm", width)


def _qformer_attention(name: str, width: int, source: int) -> Iterator[tuple[str, Shape]]:
    """`source` is the width of what is attended to: the Q-Former's own, or the picture encoder's."""
    yield from _linear(f"{name}.attention.query", width, width)
    yield from _linear(f"{name}.attention.key", source, width)
    yield from _linear(f"{name}.attention.value", source, width)
    yield from _linear(f"{name}.output.dense", width, width)
    yield from _norm(f"{name}.output.LayerNorm", width)


def _language_model(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    text = config.text
    if isinstance(text, OptConfig):
        return _opt(text)
    return _t5(text) if isinstance(text, T5Config) else _llama(text)


def _opt(text: OptConfig) -> Iterator[tuple[str, Shape]]:
    width = text.hidden_size
    embedding = text.word_embed_proj_dim or width
    decoder = "language_model.model.decoder"
    yield f"{decoder}.embed_tokens.weight", (text.vocab_size, embedding)
    yield f"{decoder}.embed_positions.weight", (text.max_position_embeddings + text.position_offset, width)
    if embedding != width:
        yield from _linear(f"{decoder}.project_in", embedding, width, bias=False)
        yield from _linear(f"{decoder}.project_out", width, embedding, bias=False)
    has_norms = text.layer_norm_elementwise_affine
    if has_norms and text.do_layer_norm_before and not text.remove_final_layer_norm:
        yield from _norm(f"{decoder}.final_layer_norm", width)
    for index in range(text.num_hidden_layers):
        layer = f"{decoder}.layers.{index}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{projection}", width, width, text.enable_bias)
        yield from _linear(f"{layer}.fc1", width, text.ffn_dim, text.enable_bias)
        yield from _linear(f"{layer}.fc2", text.ffn_dim, width, text.enable_bias)
        if has_norms:
            yield from _norm(f"{layer}.self_attn_layer_norm", width)
            yield from _norm(f"{layer}.final_layer_norm", width)
    yield HEAD, (text.vocab_size, embedding)


def _t5(text: T5Config) -> Iterator[tuple[str, Shape]]:
    table = (text.vocab_size, text.d_model)
    yield "language_model.shared.weight", table
    for stack, layers in (("encoder", text.num_layers), ("decoder", text.num_decoder_layers)):
        yield f"language_model.{stack}.embed_tokens.weight", table
        for index in range(layers):
            block = f"language_model.{stack}.block.{index}.layer"
            yield from _t5_attention(f"{block}.0", "SelfAttention", text)
            if index == 0:
                # Only the first block has the table of relative positions; the others use its values.
                bias = f"{block}.0.SelfAttention.relative_attention_bias.weight"
                yield bias, (text.relative_attention_num_buckets, text.num_heads)
            if stack == "decoder":
                yield from _t5_attention(f"{block}.1", "EncDecAttention", text)
            feed_forward = f"{block}.{2 if stack == 'decoder' else 1}"
            for name in ("wi_0", "wi_1") if text.is_gated else ("wi",):
                yield from _linear(
                    f"{feed_forward}.DenseReluDense.{name}", text.d_model, text.d_ff, bias=False
                )
            yield from _linear(f"{feed_forward}.DenseReluDense.wo", text.d_ff, text.d_model, bias=False)
            yield f"{feed_forward}.layer_norm.weight", (text.d_model,)
        yield f"language_model.{stack}.final_layer_norm.weight", (text.d_model,)
    yield HEAD, table


def _t5_attention(layer: str, kind: str, text: T5Config) -> Iterator[tuple[str, Shape]]:
    for projection in ("q", "k", "v"):
        yield from _linear(f"{layer}.{kind}.{projection}", text.d_model, text.inner_dim, bias=False)
    yield from _linear(f"{layer}.{kind}.o", text.inner_dim, text.d_model, bias=False)
    yield f"{layer}.layer_norm.weight", (text.d_model,)


def _llama(text: LlamaConfig) -> Iterator[tuple[str, Shape]]:
    width, heads = text.hidden_size, text.num_attention_heads
    inner, shared = heads * text.head_dim, text.num_key_value_heads * text.head_dim
    yield "language_model.model.embed_tokens.weight", (text.vocab_size, width)
    for index in range(text.num_hidden_layers):
        layer = f"language_model.model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", (width,)
        yield from _linear(f"{layer}.self_attn.q_proj", width, inner, text.attention_bias)
        yield from _linear(f"{layer}.self_attn.k_proj", width, shared, text.attention_bias)
        yield from _linear(f"{layer}.self_attn.v_proj", width, shared, text.attention_bias)
        yield from _linear(f"{layer}.self_attn.o_proj", inner, width, text.attention_bias)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
        yield from _linear(f"{layer}.mlp.gate_proj", width, text.intermediate_size, text.mlp_bias)
        yield from _linear(f"{layer}.mlp.up_proj", width, text.intermediate_size, text.mlp_bias)
        yield from _linear(f"{layer}.mlp.down_proj", text.intermediate_size, width, text.mlp_bias)
    yield "language_model.model.norm.weight", (width,)
    yield HEAD, (text.vocab_size, width)
