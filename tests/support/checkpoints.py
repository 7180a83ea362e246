"""Random checkpoints in the official layout, small enough for a test.

`make_checkpoint` writes what `Blip2ForConditionalGeneration.save_pretrained` and `Blip2Processor` write:
a folder that transformers and this package both load. Parameters are drawn so that every one of them matters
(transformers' own initialisation leaves the vision encoder and the query tokens at zero).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    PreTrainedTokenizerFast,
)

IMAGE_MEAN = [0.48145466, 0.4578275, 0.40821073]
IMAGE_STD = [0.26862954, 0.26130258, 0.27577711]

_CORPUS = [
    "Question: how many cats are there? Answer: two\n",
    "Question: what colour is the car on the left? Short answer: red\n",
    "a photo of a dog running on the beach\n",
    "this is a picture of a city street at night\n",
    "Question: which city is this? Answer: singapore. Question: why? Answer:\n",
]

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
QFORMER = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "cross_attention_frequency": 2,
    "vocab_size": 60,
}
TEXT: dict[str, dict[str, Any]] = {
    "opt": {
        "model_type": "opt",
        "hidden_size": 48,
        "word_embed_proj_dim": 48,
        "num_hidden_layers": 2,
        "ffn_dim": 96,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": 1,
        "bos_token_id": 2,
    },
    "t5": {
        "model_type": "t5",
        "d_model": 40,
        "d_kv": 8,
        "d_ff": 80,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
}


def make_checkpoint(
    folder: Path | str,
    family: str = "opt",
    seed: int = 0,
    *,
    vision: dict[str, Any] | None = None,
    qformer: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    num_query_tokens: int = 5,
    tied_head: bool | None = None,
    std: float = 0.05,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
) -> Path:
    """Writes a random checkpoint of `family` ("opt" or "t5") into `folder` and returns the folder.

    `vision`, `qformer` and `text` are laid over the small defaults above, key by key. `tied_head` is by
    default what the official checkpoints have (OPT: the head is the embedding; Flan-T5: a matrix of its own).
    `dtype` is what the safetensors hold; a small `max_shard_size` ("40KB") makes shards and an index.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _opt_tokenizer() if family == "opt" else _t5_tokenizer()
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    vision = {**VISION, **(vision or {})}
    text = {"vocab_size": len(tokenizer) + 3, **TEXT[family], **(text or {})}
    if family == "opt":
        text.setdefault("eos_token_id", tokenizer.convert_tokens_to_ids("Ċ"))
    config = Blip2Config(
        vision_config=vision,
        qformer_config={**QFORMER, **(qformer or {}), "encoder_hidden_size": vision["hidden_size"]},
        text_config=text,
        num_query_tokens=num_query_tokens,
        image_token_index=image_token_id,
    )
    model = Blip2ForConditionalGeneration(config).eval()
    if not (family == "opt" if tied_head is None else tied_head):
        head = model.language_model.lm_head
        head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
    randomise(model, seed, std)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    if family == "t5":
        _write_tie_as_on_the_hub(folder / "config.json", bool(text["tie_word_embeddings"]))
    size = int(vision["image_size"])
    image_processor = BlipImageProcessor(
        size={"height": size, "width": size}, image_mean=IMAGE_MEAN, image_std=IMAGE_STD
    )
    processor = Blip2Processor(image_processor, tokenizer, num_query_tokens=num_query_tokens)
    processor.save_pretrained(folder)
    # The hub's folders have both files; transformers 5 writes the picture's part into processor_config.json.
    preprocessor = folder / "preprocessor_config.json"
    if not preprocessor.exists():
        preprocessor.write_text(json.dumps(image_processor.to_dict(), indent=2), encoding="utf-8")
    return folder


def _write_tie_as_on_the_hub(path: Path, tie: bool) -> None:
    """Transformers 5 writes `scale_decoder_outputs`; the hub's files say it by `tie_word_embeddings`."""
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["text_config"]["scale_decoder_outputs"]
    config["text_config"]["tie_word_embeddings"] = tie
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int, std: float = 0.05) -> None:
    """Draws every parameter: `std` of spread around 0 (norm weights: around 1), matrices 1/sqrt(inputs)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator) * std
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        # Matrices keep the size of what goes through them, so that the logits have clear winners.
        if parameter.ndim == 2:
            noise *= max(1.0, 1 / (std * parameter.shape[-1] ** 0.5))
        # T5 scales no scores: its queries are drawn smaller instead, or attention would jump at every rounding.
        if name.endswith("Attention.q.weight"):
            noise *= model.config.text_config.d_kv**-0.5
        parameter.copy_(noise + 1 if is_norm else noise)


def _opt_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: `<s>` 0, `<pad>` 1, `</s>` 2 put before the text, `<unk>` 3, last `<image>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        unk_token="</s>",
        pad_token="<pad>",
        padding_side="left",
    )


def _t5_tokenizer() -> PreTrainedTokenizerFast:
    """Unigram over `▁` words as SentencePiece has it: `<pad>` 0, `</s>` 1 put after the text, `<unk>` 2.

    Its pieces are written down, not trained: the trainer gives others from run to run.
    """
    words = sorted({word for line in _CORPUS for word in line.replace("\n", " ").split()})
    letters = sorted({letter for word in words for letter in word})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -4.0) for word in words] + [(letter, -6.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
