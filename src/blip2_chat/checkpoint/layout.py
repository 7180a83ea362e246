"""Names and shapes of the tensors in the official layout: what every part of a model is made of."""

from __future__ import annotations

from collections.abc import Iterator

Shape = tuple[int, ...]
Tensors = Iterator[tuple[str, Shape]]

HEAD = "language_model.lm_head.weight"


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Tensors:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def norm(name: str, width: int) -> Tensors:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
