"""The memory that a training needs, in bytes, estimated before anything is loaded."""

from __future__ import annotations

from ..checkpoint.config import ModelConfig
from ..checkpoint.requirements import needed
from ..checkpoint.tensor_names import distinct_tensors, part_of
from .recipe import Recipe

KEPT = 2_000_000_000
"""Of what the picture encoder made of pictures; those beyond it are encoded anew in each epoch."""

# Tokens of a question with its answer, usually.
_TOKENS = 48
# Numbers that a layer keeps per token until its gradients are computed, in multiples of its width: inputs of norms
# and of matrices, queries, keys and values, and the same of the adapters.
_WIDTHS = 16


def training_memory(config: ModelConfig, precision: str, recipe: Recipe, pictures: int) -> int:
    """The peak for `pictures` different pictures: the loaded model, what it keeps of pictures, of activations for the
    gradients, and the adapter with its gradients and AdamW's two averages."""
    vision, text, bridge = config.vision, config.text, config.qformer
    features = min(KEPT, 4 * pictures * vision.num_positions * vision.hidden_size)
    queries = config.num_query_tokens
    each = 4 if precision == "fp32" else 2
    # An encoder-decoder has as many layers again.
    layers = max(1, text.cached_numbers // (2 * text.hidden_size)) * (1 if text.is_decoder_only else 2)
    sequence = queries + _TOKENS
    words = layers * sequence * (_WIDTHS * text.hidden_size + 3 * text.feed_forward_numbers)
    scores = 2 * layers * text.num_attention_heads * sequence**2
    vectors = bridge.num_hidden_layers * queries * (_WIDTHS + 12) * bridge.hidden_size
    logits = 3 * sequence * text.vocab_size
    kept = recipe.batch * (each * (words + scores) + 4 * (vectors + logits))
    return int(
        needed(config, precision, "torch") + features + kept + 16 * _adapter_numbers(config, recipe.rank)
    )


def _adapter_numbers(config: ModelConfig, rank: int) -> int:
    """Numbers in the adapter: rank times both sides of every matrix that is adapted."""
    sides = [
        sum(shape)
        for name, shape in distinct_tensors(config).items()
        if len(shape) == 2 and part_of(name) != "vision" and "embed" not in name and "lm_head" not in name
    ]
    return rank * sum(sides)
