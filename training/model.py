"""The shipped model's shape: BLIP-2's own architecture, small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Blip2Config, Blip2ForConditionalGeneration

from .scenes import IMAGE_SIZE, PATCH
from .tokenizer import BOS_ID, IMAGE_ID, PAD_ID

QUERIES = 32
SLOWEST = 20.0  # patches per radian of the slowest wave; the fastest has one
POSITION_STRENGTH = 1.2


@dataclass(frozen=True)
class Shape:
    """Widths and depths of the three parts."""

    vision_width: int = 256
    vision_layers: int = 6
    qformer_width: int = 192
    qformer_layers: int = 4
    language_width: int = 192
    language_layers: int = 4
    head_width: int = 32


def positions(width: int) -> Tensor:
    """Sines and cosines of each patch's column and row, about as strong as the patches' contents."""
    cells = IMAGE_SIZE // PATCH
    rates = SLOWEST ** -torch.linspace(0, 1, width // 4)
    angles = torch.arange(cells)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = waves[None].expand(cells, -1, -1), waves[:, None].expand(-1, cells, -1)
    grid = torch.cat([columns, rows], dim=-1).flatten(0, 1)
    return POSITION_STRENGTH * (grid - grid.mean(0)) / (grid - grid.mean(0)).std()


def build_config(stop_id: int, vocabulary: int, shape: Shape) -> Blip2Config:
    """The configuration as ``config.json`` will hold it."""
    config = Blip2Config(
        vision_config={
            "hidden_size": shape.vision_width, "intermediate_size": 4 * shape.vision_width,
            "num_hidden_layers": shape.vision_layers, "num_attention_heads": shape.vision_width // shape.head_width,
            "image_size": IMAGE_SIZE, "patch_size": PATCH, "initializer_range": 0.02,
        },
        qformer_config={
            "hidden_size": shape.qformer_width, "intermediate_size": 4 * shape.qformer_width,
            "num_hidden_layers": shape.qformer_layers, "num_attention_heads": shape.qformer_width // shape.head_width,
            "encoder_hidden_size": shape.vision_width, "cross_attention_frequency": 2, "vocab_size": vocabulary,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        },
        text_config={
            "model_type": "opt", "vocab_size": vocabulary, "hidden_size": shape.language_width,
            "word_embed_proj_dim": shape.language_width, "ffn_dim": 4 * shape.language_width,
            "num_hidden_layers": shape.language_layers,
            "num_attention_heads": shape.language_width // shape.head_width, "max_position_embeddings": 512,
            "dropout": 0.0, "bos_token_id": BOS_ID, "pad_token_id": PAD_ID, "eos_token_id": stop_id,
            "do_layer_norm_before": True, "activation_function": "relu",
        },
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_ID,
    )  # fmt: skip
    return config


def build_model(stop_id: int, vocabulary: int, shape: Shape, seed: int) -> Blip2ForConditionalGeneration:
    """A freshly initialised model, the same for the same seed."""
    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(build_config(stop_id, vocabulary, shape))
    with torch.no_grad():
        # transformers starts the query vectors at zero, which leaves them alike: nothing tells them apart
        model.query_tokens.normal_(0.0, 0.5)
        # ... and positions so faint that the patches' contents drown them for thousands of steps: what is
        # in the picture is learnt soon, where it is hardly at all
        model.vision_model.embeddings.position_embedding[:, 1:] = positions(shape.vision_width)
    return model
