"""The tensors of checkpoints in the official layout, by name and shape, from the values of config.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Shape = tuple[int, ...]


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def vision_shapes(vision: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, patch = vision["hidden_size"], vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2 + 1
    yield "vision_model.embeddings.class_embedding", (1, 1, width)
    yield "vision_model.embeddings.position_embedding", (1, positions, width)
    yield "vision_model.embeddings.patch_embedding.weight", (width, 3, patch, patch)
    yield "vision_model.embeddings.patch_embedding.bias", (width,)
    for number in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{number}"
        yield from _norm(f"{layer}.layer_norm1", width)
        yield from _norm(f"{layer}.layer_norm2", width)
        yield from _linear(f"{layer}.self_attn.qkv", width, 3 * width, vision["qkv_bias"])
        yield from _linear(f"{layer}.self_attn.projection", width, width)
        yield from _linear(f"{layer}.mlp.fc1", width, vision["intermediate_size"])
        yield from _linear(f"{layer}.mlp.fc2", vision["intermediate_size"], width)
    yield from _norm("vision_model.post_layernorm", width)


def qformer_shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    reads_text = config["model_type"] == "instructblip"
    yield from _qformer_layers(config, ["_query", ""] if reads_text else ["_query"])
    width, text = config["qformer_config"]["hidden_size"], config["text_config"]
    yield from _linear("language_projection", width, text.get("hidden_size") or text["d_model"])


def retriever_shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    qformer = config["qformer_config"]
    width, size = qformer["hidden_size"], config["image_text_hidden_size"]
    yield "embeddings.word_embeddings.weight", (qformer["vocab_size"], width)
    yield "embeddings.position_embeddings.weight", (qformer["max_position_embeddings"], width)
    yield from _qformer_layers(config, ["_query", ""])
    yield from _linear("vision_projection", width, size)
    yield from _linear("text_projection", width, size)
    yield from _linear("itm_head", width, 2)


def _qformer_layers(config: dict[str, Any], branches: list[str]) -> Iterator[tuple[str, Shape]]:
    qformer = config["qformer_config"]
    width, inner = qformer["hidden_size"], qformer["intermediate_size"]
    reads_text = config["model_type"] == "instructblip"
    yield "query_tokens", (1, config["num_query_tokens"], width)
    if reads_text:
        yield "qformer.embeddings.word_embeddings.weight", (qformer["vocab_size"], width)
        yield "qformer.embeddings.position_embeddings.weight", (qformer["max_position_embeddings"], width)
    yield from _norm("qformer.embeddings.layernorm" if reads_text else "qformer.layernorm", width)
    for number in range(qformer["num_hidden_layers"]):
        layer = f"qformer.encoder.layer.{number}"
        kinds = {"attention": width}
        if number % qformer["cross_attention_frequency"] == 0:
            kinds["crossattention"] = qformer["encoder_hidden_size"]
        for kind, source in kinds.items():
            yield from _linear(f"{layer}.{kind}.attention.query", width, width)
            yield from _linear(f"{layer}.{kind}.attention.key", source, width)
            yield from _linear(f"{layer}.{kind}.attention.value", source, width)
            yield from _linear(f"{layer}.{kind}.output.dense", width, width)
            yield from _norm(f"{layer}.{kind}.output.LayerNorm", width)
        for branch in branches:
            yield from _linear(f"{layer}.intermediate{branch}.dense", width, inner)
            yield from _linear(f"{layer}.output{branch}.dense", inner, width)
            yield from _norm(f"{layer}.output{branch}.LayerNorm", width)


def opt_shapes(text: dict[str, Any], tied_head: bool) -> Iterator[tuple[str, Shape]]:
    width, words = text["hidden_size"], text["vocab_size"]
    bias, affine = text["enable_bias"], text["layer_norm_elementwise_affine"]
    decoder = "language_model.model.decoder"
    yield f"{decoder}.embed_tokens.weight", (words, width)
    # The first two positions are never used: OPT's own offset.
    yield f"{decoder}.embed_positions.weight", (text["max_position_embeddings"] + 2, width)
    for number in range(text["num_hidden_layers"]):
        layer = f"{decoder}.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{name}", width, width, bias)
        yield from _linear(f"{layer}.fc1", width, text["ffn_dim"], bias)
        yield from _linear(f"{layer}.fc2", text["ffn_dim"], width, bias)
        if affine:
            yield from _norm(f"{layer}.self_attn_layer_norm", width)
            yield from _norm(f"{layer}.final_layer_norm", width)
    if affine and not text["_remove_final_layer_norm"]:
        yield from _norm(f"{decoder}.final_layer_norm", width)
    if not tied_head:
        yield "language_model.lm_head.weight", (words, width)


def t5_shapes(text: dict[str, Any], tied_head: bool) -> Iterator[tuple[str, Shape]]:
    width, inner = text["d_model"], text["num_heads"] * text["d_kv"]
    yield "language_model.shared.weight", (text["vocab_size"], width)
    stacks = {"encoder": text["num_layers"], "decoder": text["num_decoder_layers"]}
    for stack, layers in stacks.items():
        for number in range(layers):
            block = f"language_model.{stack}.block.{number}.layer"
            attentions = ["SelfAttention", "EncDecAttention"][: 2 if stack == "decoder" else 1]
            for place, attention in enumerate(attentions):
                for name in "qkv":
                    yield f"{block}.{place}.{attention}.{name}.weight", (inner, width)
                yield f"{block}.{place}.{attention}.o.weight", (width, inner)
                yield f"{block}.{place}.layer_norm.weight", (width,)
            if number == 0:
                buckets = (text["relative_attention_num_buckets"], text["num_heads"])
                yield f"{block}.0.SelfAttention.relative_attention_bias.weight", buckets
            feed = f"{block}.{len(attentions)}"
            for name in ("wi_0", "wi_1") if text["is_gated_act"] else ("wi",):
                yield f"{feed}.DenseReluDense.{name}.weight", (text["d_ff"], width)
            yield f"{feed}.DenseReluDense.wo.weight", (width, text["d_ff"])
            yield f"{feed}.layer_norm.weight", (width,)
        yield f"language_model.{stack}.final_layer_norm.weight", (width,)
    if not tied_head:
        yield "language_model.lm_head.weight", (text["vocab_size"], width)


def llama_shapes(text: dict[str, Any], tied_head: bool) -> Iterator[tuple[str, Shape]]:
    width, words, head = text["hidden_size"], text["vocab_size"], text["head_dim"]
    sizes = {
        "q": text["num_attention_heads"],
        "k": text["num_key_value_heads"],
        "v": text["num_key_value_heads"],
    }
    yield "language_model.model.embed_tokens.weight", (words, width)
    for number in range(text["num_hidden_layers"]):
        layer = f"language_model.model.layers.{number}"
        for name, heads in sizes.items():
            yield from _linear(f"{layer}.self_attn.{name}_proj", width, heads * head, text["attention_bias"])
        yield from _linear(f"{layer}.self_attn.o_proj", sizes["q"] * head, width, text["attention_bias"])
        for name in ("gate_proj", "up_proj"):
            yield from _linear(f"{layer}.mlp.{name}", width, text["intermediate_size"], text["mlp_bias"])
        yield from _linear(f"{layer}.mlp.down_proj", text["intermediate_size"], width, text["mlp_bias"])
        yield f"{layer}.input_layernorm.weight", (width,)
        yield f"{layer}.post_attention_layernorm.weight", (width,)
    yield "language_model.model.norm.weight", (width,)
    if not tied_head:
        yield "language_model.lm_head.weight", (words, width)
