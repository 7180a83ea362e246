"""Random checkpoints that transformers itself writes: the reference for those of tests/support/checkpoints.py.

Only tests of parity use them: of layouts, and of shapes that the numpy-made checkpoints do not have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    BlipImageProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    PreTrainedTokenizerFast,
)

from tests.support.checkpoints import IMAGE_MEAN, IMAGE_STD, QFORMER, VISION, make_retriever, text_settings
from tests.support.tokenizers import TOKENIZERS, qformer_tokenizer, special_tokens


def save_checkpoint(
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
    """`make_checkpoint` by transformers' `save_pretrained` of models and processors.

    Parameters are drawn so that every one of them matters (transformers' own initialisation leaves the vision
    encoder and the query tokens at zero).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind, is_instruct = family.removeprefix("instruct-"), family.startswith("instruct-")
    made = TOKENIZERS[kind]()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **special_tokens(kind))
    vision = {**VISION, **(vision or {})}
    text = text_settings(kind, made, text)
    qformer = {**QFORMER, **(qformer or {}), "encoder_hidden_size": vision["hidden_size"]}
    if is_instruct:
        qformer["vocab_size"] = max(qformer["vocab_size"], qformer_tokenizer().get_vocab_size())
    config = (InstructBlipConfig if is_instruct else Blip2Config)(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=num_query_tokens,
        image_token_index=made.token_to_id("<image>"),
    )
    of = InstructBlipForConditionalGeneration if is_instruct else Blip2ForConditionalGeneration
    model = of(config).eval()
    if not (kind == "opt" if tied_head is None else tied_head):
        head = model.language_model.lm_head
        head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
    randomise(model, seed, std)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    if kind == "t5":
        _write_tie_as_on_the_hub(folder / "config.json", bool(text["tie_word_embeddings"]))
    size = int(vision["image_size"])
    image_processor = BlipImageProcessor(
        size={"height": size, "width": size}, image_mean=IMAGE_MEAN, image_std=IMAGE_STD
    )
    if is_instruct:
        reading = PreTrainedTokenizerFast(tokenizer_object=qformer_tokenizer(), **special_tokens("qformer"))
        processor = InstructBlipProcessor(
            image_processor, tokenizer, reading, num_query_tokens=num_query_tokens
        )
    else:
        processor = Blip2Processor(image_processor, tokenizer, num_query_tokens=num_query_tokens)
    processor.save_pretrained(folder)
    # The hub's folders have both files; transformers 5 writes the picture settings into processor_config.json.
    preprocessor = folder / "preprocessor_config.json"
    if not preprocessor.exists():
        preprocessor.write_text(json.dumps(image_processor.to_dict(), indent=2), encoding="utf-8")
    return folder


def _write_tie_as_on_the_hub(path: Path, tie: bool) -> None:
    """Transformers 5 writes `scale_decoder_outputs`; the hub's files have `tie_word_embeddings` instead."""
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
        # T5 does not scale its scores: draw its queries smaller, or attention would jump at every rounding.
        if name.endswith("Attention.q.weight"):
            noise *= model.config.text_config.d_kv**-0.5
        parameter.copy_(noise + 1 if is_norm else noise)


def save_retriever(folder: Path, seed: int = 0, **options: Any) -> Path:
    """`make_retriever` by `Blip2ForImageTextRetrieval.save_pretrained`, with the same small files."""
    make_retriever(folder, seed, **options)
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    config = Blip2Config(
        vision_config=raw["vision_config"],
        qformer_config=raw["qformer_config"],
        num_query_tokens=raw["num_query_tokens"],
        image_text_hidden_size=raw["image_text_hidden_size"],
    )
    model = Blip2ForImageTextRetrieval(config).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    return folder
