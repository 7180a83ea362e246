"""The activations of transformers (its `ACT2FN`) as ONNX operators."""

from __future__ import annotations

import numpy as np

from .builder import Graph
from .tensors import Value

# ONNX's own operators, whose defaults are those of torch.
_STANDARD = {
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "leaky_relu": "LeakyRelu",
    "hardswish": "HardSwish",
    "mish": "Mish",
}
_TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate")
# x * sigmoid(alpha * x), by alpha.
_SIGMOID_GATES = {"quick_gelu": 1.702, "silu": 1.0, "swish": 1.0}


class UnknownActivation(ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(f"the onnx engine does not know the activation {name[:40]!r}: use engine='torch'")


def activate(g: Graph, name: str, x: Value) -> Value:
    """The activation that transformers calls `name`, of the same shape as x. Raises `UnknownActivation`."""
    if name in _STANDARD:
        return g.op(_STANDARD[name], x)
    if name in ("gelu", "gelu_python"):
        return g.fused("Gelu", x)
    if name in _TANH_GELUS:
        return g.fused("FastGelu", x)
    if name in _SIGMOID_GATES:
        return g.fused("QuickGelu", x, alpha=_SIGMOID_GATES[name])
    if name == "gelu_10":
        return _clip(g, g.fused("Gelu", x), -10, 10)
    if name == "relu6":
        return _clip(g, x, 0, 6)
    if name == "relu2":
        rectified = g.op("Relu", x)
        return g.op("Mul", rectified, rectified)
    if name == "linear":
        return x
    raise UnknownActivation(name)


def _clip(g: Graph, x: Value, low: float, high: float) -> Value:
    return g.op("Clip", x, g.const(low, np.float32), g.const(high, np.float32))
