"""Which number format training's matrix products use on this machine."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def bfloat16_pays(device: str) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware.

    Without such instructions a CPU emulates them, many times slower than float32.
    """
    if device != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))


def mixed_precision(device: str) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where that is faster, plain float32 elsewhere."""
    return torch.autocast(device, torch.bfloat16, enabled=bfloat16_pays(device))
