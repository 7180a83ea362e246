"""The official checkpoints by name, each with its shape: sizes are computed from it, not hard-coded."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Generic

from typing_extensions import TypeVar

from .config import (
    LlamaConfig,
    ModelConfig,
    OptConfig,
    QFormerConfig,
    T5Config,
    TextConfig,
    VisionConfig,
)
from .embedded import EMBEDDED, embedded_models
from .retrieval_config import AnyConfig, RetrievalConfig
from .tensor_names import count_parameters
from .text_config import LANGUAGE_MODELS

_Config = TypeVar("_Config", bound=AnyConfig, default=ModelConfig, covariant=True)


@dataclass(frozen=True)
class KnownCheckpoint(Generic[_Config]):
    """One official checkpoint on the hub."""

    name: str
    config: _Config
    description: str

    @property
    def family(self) -> str:
        return self.config.family

    @property
    def parameters(self) -> int:
        """Numbers held, all parts."""
        return sum(count_parameters(self.config).values())

    @property
    def image_size(self) -> int:
        """Side of the square the picture is resized to, in pixels."""
        return self.config.vision.image_size


# Where the official configurations differ from transformers' defaults.
_OPT_EOS = 50118  # the newline: the model was trained to end its answer with one
_OPT_2_7B = OptConfig(
    vocab_size=50304,
    hidden_size=2560,
    num_hidden_layers=32,
    ffn_dim=10240,
    num_attention_heads=32,
    word_embed_proj_dim=2560,
    eos_token_ids=(_OPT_EOS,),
)
_OPT_6_7B = OptConfig(
    vocab_size=50304,
    hidden_size=4096,
    num_hidden_layers=32,
    ffn_dim=16384,
    num_attention_heads=32,
    word_embed_proj_dim=4096,
    eos_token_ids=(_OPT_EOS,),
)
_FLAN_T5_XL = T5Config(
    d_model=2048,
    d_ff=5120,
    num_layers=24,
    num_decoder_layers=24,
    num_heads=32,
    feed_forward_proj="gated-gelu",
    dense_act_fn="gelu",
    scale_decoder_outputs=False,
)
_FLAN_T5_XXL = T5Config(
    d_model=4096,
    d_ff=10240,
    num_layers=24,
    num_decoder_layers=24,
    num_heads=64,
    feed_forward_proj="gated-gelu",
    dense_act_fn="gelu",
    scale_decoder_outputs=False,
)
_VICUNA_7B = LlamaConfig(vocab_size=32064, eos_token_ids=(1, 2))
_VICUNA_13B = LlamaConfig(
    vocab_size=32064,
    hidden_size=5120,
    intermediate_size=13824,
    num_hidden_layers=40,
    num_attention_heads=40,
    num_key_value_heads=40,
    eos_token_ids=(1, 2),
)


def _config(text: TextConfig, image_size: int = 224) -> ModelConfig:
    vision, image_token = VisionConfig(image_size=image_size), LANGUAGE_MODELS[text.kind].image_token
    return ModelConfig(vision, QFormerConfig(), text, image_token_id=image_token)


def _instruct(text: TextConfig) -> ModelConfig:
    """InstructBLIP: the Q-Former reads the instruction, with BERT's vocabulary and one token more."""
    qformer = QFormerConfig(vocab_size=30523, use_qformer_text_input=True)
    return replace(_config(text), qformer=qformer)


# The captioning variants were fine-tuned on larger pictures.
_COCO = 364

KNOWN: tuple[KnownCheckpoint, ...] = (
    KnownCheckpoint(
        "Salesforce/blip2-opt-2.7b",
        _config(_OPT_2_7B),
        "the smallest: captions and short answers, the usual choice",
    ),
    KnownCheckpoint(
        "Salesforce/blip2-opt-2.7b-coco",
        _config(_OPT_2_7B, _COCO),
        "opt-2.7b fine-tuned for captions: better sentences, weaker answers",
    ),
    KnownCheckpoint(
        "Salesforce/blip2-flan-t5-xl",
        _config(_FLAN_T5_XL),
        "follows questions and instructions better than OPT",
    ),
    KnownCheckpoint(
        "Salesforce/blip2-flan-t5-xl-coco",
        _config(_FLAN_T5_XL, _COCO),
        "flan-t5-xl fine-tuned for captions: better sentences, weaker answers",
    ),
    KnownCheckpoint("Salesforce/blip2-opt-6.7b", _config(_OPT_6_7B), "opt-2.7b with a larger language model"),
    KnownCheckpoint(
        "Salesforce/blip2-opt-6.7b-coco",
        _config(_OPT_6_7B, _COCO),
        "opt-6.7b fine-tuned for captions: better sentences, weaker answers",
    ),
    KnownCheckpoint(
        "Salesforce/blip2-flan-t5-xxl",
        _config(_FLAN_T5_XXL),
        "the best short answers of BLIP-2, and its largest",
    ),
    KnownCheckpoint(
        "Salesforce/instructblip-flan-t5-xl",
        _instruct(_FLAN_T5_XL),
        "follows instructions: its picture vectors depend on the question",
    ),
    KnownCheckpoint(
        "Salesforce/instructblip-vicuna-7b",
        _instruct(_VICUNA_7B),
        "follows instructions at length, for research use (the terms of LLaMA and Vicuna apply)",
    ),
    KnownCheckpoint(
        "Salesforce/instructblip-flan-t5-xxl",
        _instruct(_FLAN_T5_XXL),
        "instructblip-flan-t5-xl with a larger language model",
    ),
    KnownCheckpoint(
        "Salesforce/instructblip-vicuna-13b",
        _instruct(_VICUNA_13B),
        "instructblip-vicuna-7b with a larger language model: the largest of all",
    ),
)


def _retriever(image_size: int) -> RetrievalConfig:
    return RetrievalConfig(VisionConfig(image_size=image_size), QFormerConfig(vocab_size=30523))


KNOWN_RETRIEVERS: tuple[KnownCheckpoint[RetrievalConfig], ...] = (
    KnownCheckpoint(
        "Salesforce/blip2-itm-vit-g",
        _retriever(224),
        "matches pictures with texts: search, zero-shot labels",
    ),
    KnownCheckpoint(
        "Salesforce/blip2-itm-vit-g-coco",
        _retriever(_COCO),
        "itm-vit-g fine-tuned on COCO: better matches of photographs, larger pictures",
    ),
)


def suggest(name: str) -> str:
    """A clause naming the known checkpoints whose names are close to `name`; the usual ones when none is."""
    names = [*(known.name for known in KNOWN), *(known.name for known in KNOWN_RETRIEVERS)]
    by_key = {name.split("/")[1].lower(): name for name in names}
    by_key |= {name: name for name in embedded_models()}
    wanted = name.rsplit("/", 1)[-1].lower()
    if wanted in by_key:
        return f"did you mean {by_key[wanted]}?"
    # "opt-2.7b" and "blip2_opt_2.7b" are as close as a typing error is.
    wanted = wanted.replace("_", "-")
    by_ending: dict[str, str] = {}
    for key, name in by_key.items():
        by_ending.setdefault(key.removeprefix("instructblip-").removeprefix("blip2-"), name)
    for offered in (by_key, by_ending):
        if close := difflib.get_close_matches(wanted, offered, n=2, cutoff=0.6):
            return f"did you mean {' or '.join(offered[key] for key in close)}?"
    return f"known names are {EMBEDDED}, {', '.join(names)}"
