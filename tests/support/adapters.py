"""LoRA adapters as peft itself makes and saves them, with every number drawn so that it matters."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import Blip2ForConditionalGeneration

LINEARS = ["q_proj", "fc1", "query", "language_projection"]
T5_LINEARS = ["q", "wi_0", "query", "language_projection"]


def base_model(folder: Path) -> Any:
    return Blip2ForConditionalGeneration.from_pretrained(folder).eval()


@torch.no_grad()
def make_adapter(folder: Path, out: Path, *, seed: int = 0, **settings: Any) -> Path:
    """An adapter of the checkpoint in `folder`, in `out`. `settings` are `LoraConfig`'s."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # peft tells what it sets right, such as fan_in_fan_out of linear layers
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(base_model(folder), LoraConfig(**settings))
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * 0.1
                parameter.copy_(noise if "lora_" in name and "magnitude" not in name else parameter + noise)
        model.save_pretrained(out)
    return out


def merged(folder: Path, adapter: Path) -> Any:
    """transformers' model with the adapter merged into it by peft."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PeftModel

        return PeftModel.from_pretrained(base_model(folder), adapter).merge_and_unload().eval()
