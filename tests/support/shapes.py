"""Shapes that no official checkpoint has: odd widths, other depths, no biases. Each by its family and overrides."""

from __future__ import annotations

from typing import Any

ODD_VISION = {
    "hidden_size": 36,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "image_size": 42,
    "hidden_act": "gelu_new",
    "qkv_bias": False,
}
ODD_QFORMER = {
    "hidden_size": 30,
    "num_attention_heads": 5,
    "num_hidden_layers": 4,
    "cross_attention_frequency": 3,
    "hidden_act": "relu",
}
ODD_LLAMA = {
    "hidden_size": 54,
    "intermediate_size": 70,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "attention_bias": True,
    "mlp_bias": True,
    "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": ("opt", {}),
    "opt odd": (
        "opt",
        {
            "vision": ODD_VISION,
            "qformer": ODD_QFORMER,
            "text": {
                "hidden_size": 51,
                "word_embed_proj_dim": 51,
                "num_attention_heads": 3,
                "ffn_dim": 70,
                "num_hidden_layers": 3,
                "activation_function": "gelu",
            },
            "num_query_tokens": 7,
        },
    ),
    "opt without biases": (
        "opt",
        {
            "text": {
                "enable_bias": False,
                "layer_norm_elementwise_affine": False,
                "_remove_final_layer_norm": True,
            },
            "tied_head": False,
        },
    ),
    "t5": ("t5", {}),
    "t5 odd": (
        "t5",
        {
            "vision": ODD_VISION,
            "qformer": ODD_QFORMER,
            "text": {
                "d_model": 33,
                "d_kv": 7,
                "num_heads": 3,
                "d_ff": 50,
                "feed_forward_proj": "gated-silu",
                "relative_attention_num_buckets": 10,
                "relative_attention_max_distance": 20,
                "num_layers": 1,
                "num_decoder_layers": 3,
            },
            "num_query_tokens": 1,
        },
    ),
    "t5 1.0": (
        "t5",
        {"text": {"feed_forward_proj": "relu", "tie_word_embeddings": True}, "tied_head": True},
    ),
    "instruct t5": ("instruct-t5", {}),
    "instruct t5 odd": (
        "instruct-t5",
        {"vision": ODD_VISION, "qformer": ODD_QFORMER, "num_query_tokens": 1},
    ),
    "instruct llama": ("instruct-llama", {}),
    "instruct llama odd": (
        "instruct-llama",
        {"vision": ODD_VISION, "qformer": ODD_QFORMER, "text": ODD_LLAMA, "num_query_tokens": 7},
    ),
}
