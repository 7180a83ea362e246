"""Weights into memory, for the torch engine: which precision, on which device, through bitsandbytes or not."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    BitsAndBytesConfig,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    InstructBlipForConditionalGeneration,
)

from ...checkpoint.requirements import needed, suggestion
from ...checkpoint.retrieval_config import AnyConfig
from ...errors import CheckpointError, MissingExtraError, NotEnoughMemoryError
from ...system.memory import available_memory
from ...system.progress import Progress

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Casting these below fp32 changes captions (transformers #37068, #38858); an 8-bit head picks wrong tokens.
# T5's `wo` transformers adds by itself: its inputs are beyond fp16, to which bitsandbytes casts.
_KEPT_HIGH = [
    *("query_tokens", "qformer", "language_projection", "lm_head"),
    *("embeddings", "vision_projection", "text_projection", "itm_head"),
]
# What bitsandbytes logs at every matrix product (a cast that we ask for) and at import (a faster kernel that
# would be downloaded).
_NOISY = ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops")


# Kept in fp32 in bf16 too; transformers' own rule is for fp16 only.
_KEPT_FP32 = ("query_tokens", "qformer")


class _Blip2(Blip2ForConditionalGeneration):  # type: ignore[misc]
    _keep_in_fp32_modules_strict = _KEPT_FP32


class _InstructBlip(InstructBlipForConditionalGeneration):  # type: ignore[misc]
    _keep_in_fp32_modules_strict = _KEPT_FP32


class _Retrieval(Blip2ForImageTextRetrieval):  # type: ignore[misc]
    """The same for pictures and texts, whose heads and word embeddings are fp32, too."""

    _keep_in_fp32_modules_strict = (
        *("query_tokens", "qformer", "word_embeddings", "position_embeddings"),
        *("vision_projection", "text_projection", "itm_head"),
    )


# By the name of transformers' class.
_CLASSES: dict[str, Any] = {one.__bases__[0].__name__: one for one in (_Blip2, _InstructBlip, _Retrieval)}


def load_weights(
    folder: Path, config: AnyConfig, precision: str, device: str, on_progress: Progress | None = None
) -> Any:
    """transformers' model from an official-layout folder, at `precision` ("fp32" ... "int4") on `device`."""
    _require(device, precision)
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    if device == "cuda":
        options["device_map"] = placement(needed(config, precision, "torch"), free_gpu_memory())
    elif device != "cpu" or precision not in _DTYPES:
        options["device_map"] = {"": device}
    if precision in _DTYPES:
        options["dtype"] = _DTYPES[precision]
    else:
        options |= _bitsandbytes(precision, config, device)
    try:
        with _told(on_progress):
            model = _CLASSES[config.architecture.transformers_class].from_pretrained(folder, **options)
    except torch.OutOfMemoryError:
        # More than the estimate says, or loaded by force.
        size = needed(config, precision, "torch")
        free = sum(free_gpu_memory(device)) if device.startswith("cuda") else available_memory()
        smaller = suggestion(config, "torch", min(free, size - 1), folder.name)
        raise NotEnoughMemoryError(folder.name, precision, "torch", size, free, smaller) from None
    if device == "cpu" and precision not in _DTYPES:
        _fit_for_cpu(model, config)
    return model


def _require(device: str, precision: str) -> None:
    if device == "mps" and not torch.backends.mps.is_available():
        raise CheckpointError("torch finds no Apple GPU here: use device='cpu'")
    if device == "mps" and precision not in _DTYPES:
        raise CheckpointError(
            f"{precision} with the torch engine (bitsandbytes) is for CUDA GPUs and CPUs: on an Apple GPU use "
            "precision='fp16' or 'bf16'; on its CPU, device='cpu' or engine='onnx'"
        )


def _bitsandbytes(precision: str, config: AnyConfig, device: str) -> dict[str, Any]:
    """LLM.int8() (Dettmers et al. 2022) or NF4 (Dettmers et al. 2023) on the encoder and language model."""
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise MissingExtraError(f"{precision} with the torch engine (bitsandbytes)", "torch") from None
    # The type of what is not quantised, and of the arithmetic. On a CPU fp32: 16 bits are no faster there
    # without the newest instructions, and int8 answers are then closer to the full model's. T5 overflows
    # fp16.
    half = torch.float16 if _is_decoder_only(config) else torch.bfloat16
    compute = torch.float32 if device == "cpu" else half
    if precision == "int8":
        how = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_KEPT_HIGH)
    else:
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=compute,
            llm_int8_skip_modules=_KEPT_HIGH,
        )
    return {"quantization_config": how, "dtype": compute}


def _is_decoder_only(config: AnyConfig) -> bool:
    """Whether there is no encoder of texts, whose activations fp16 would overflow."""
    return config.text is None or config.text.is_decoder_only


def _fit_for_cpu(model: Any, config: AnyConfig) -> None:
    language = config.architecture.language
    unquantised = None if language is None else language.unquantised
    for name, module in model.named_modules():
        if unquantised is not None and name.endswith(unquantised):
            module.to(torch.bfloat16)  # not quantised, and half of it would otherwise be nothing but memory
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes' packed 4-bit kernel needs whole blocks, and fails on other shapes.
            rows, columns = module.out_features, module.in_features
            module.support_avx512bf16_for_cpu &= rows % 32 == 0 and columns % 64 == 0


def placement(size: int, free: Sequence[int]) -> str | dict[str, str]:
    """transformers' `device_map` for a model of `size` bytes on GPUs with `free` bytes each.

    The emptiest GPU that holds it whole: between GPUs every token would wait for the next one. Only when none
    does, accelerate spreads the layers ("auto").
    """
    roomiest = max(range(len(free)), key=free.__getitem__)
    return "auto" if len(free) > 1 and size > free[roomiest] else {"": f"cuda:{roomiest}"}


def free_gpu_memory(device: str = "cuda") -> list[int]:
    """Free bytes of each GPU that `device` means: all for "cuda", one for "cuda:1". `CheckpointError` without."""
    count, given = torch.cuda.device_count(), torch.device(device).index
    if (given or 0) >= count:
        raise CheckpointError(
            f"torch {torch.__version__} finds {count or 'no'} CUDA GPU{'s' * (count > 1)} here, so {device} cannot "
            "be used: give device='cpu', or install torch for your GPU"
        )
    return [torch.cuda.mem_get_info(place)[0] for place in (range(count) if given is None else [given])]


def accelerator() -> str | None:
    """The GPU that torch can use here: "cuda", "mps", or None."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, and of the scales that bitsandbytes keeps beside them."""
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        weight = getattr(module, "weight", None)
        scales = (getattr(weight, "SCB", None), getattr(getattr(module, "state", None), "SCB", None))
        tensors += [one for one in scales if one is not None][:1]
        blocks = getattr(weight, "quant_state", None)
        tensors += [] if blocks is None else [blocks.absmax, blocks.code]
    return sum({one.data_ptr(): one.numel() * one.element_size() for one in tensors}.values())


@contextmanager
def _told(on_progress: Progress | None) -> Iterator[None]:
    """transformers' bar of loaded tensors goes to `on_progress`; without one, where transformers shows it."""
    hook = getattr(transformers.utils.logging, "set_tqdm_hook", None)  # from transformers 5.3 on
    if on_progress is None or hook is None:
        yield
        return

    def told(factory: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        items = list(args[0]) if args else []

        def each() -> Iterator[Any]:
            for done, item in enumerate(items):
                on_progress("loading", done, len(items))
                yield item
            on_progress("loading", len(items), len(items))

        return each()

    before = hook(told)
    try:
        yield
    finally:
        hook(before)
