"""What each way of multiplying costs in precision, on the kinds of activations that BLIP-2's layers see.

    python -m benchmarks.quantisation_error

One linear layer (2560 -> 1024) on 64 rows, run in ONNX Runtime through the engine's own `Graph.linear`. Printed per
kind of activation and scheme: the output's error over the output (root mean squares per row, their mean), in percent;
for `one huge row`, over the other rows.

The activations are drawn, with outliers as they are reported for real models: OPT's LayerNorm outputs have a few
channels tens of times larger than the others (Dettmers et al. 2022, LLM.int8(), section 4), and single tokens carry
activations thousands of times the median (Sun et al. 2024, Massive Activations in Large Language Models).
"""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from blip2_chat.engines.onnx.graph.builder import Graph, Scheme
from blip2_chat.engines.onnx.graph.tensors import FLOAT, constant
from blip2_chat.engines.onnx.run.runtime import ort

ROWS, K, N = 64, 2560, 1024


def activations(kind: str, rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal((ROWS, K))
    if kind == "gaussian":
        return x
    if kind == "outlier channels":
        x[:, rng.choice(K, 6, replace=False)] *= 40
        return x
    if kind == "strong outlier channels":
        x[:, rng.choice(K, 6, replace=False)] *= 150
        return x
    if kind == "after ReLU":
        return np.maximum(x * np.exp(0.7 * rng.standard_normal((1, K))) - 1, 0)
    if kind == "after GELU":
        x *= np.exp(0.7 * rng.standard_normal((1, K)))
        return x / (1 + np.exp(-1.702 * x))
    if kind == "rows of many sizes":
        return x * np.exp(2 * rng.standard_normal((ROWS, 1)))
    if kind == "one huge row":
        x[0, :3] = 3000
        return x
    raise AssertionError(kind)


KINDS = (
    "gaussian",
    "rows of many sizes",
    "one huge row",
    "after GELU",
    "after ReLU",
    "outlier channels",
    "strong outlier channels",
)

SCHEMES: dict[str, Scheme] = {
    "columns": Scheme("columns"),
    "8 bit/256": Scheme("blocks", 8, 256),
    "8 bit/128": Scheme("blocks", 8, 128),
    "8 bit/32": Scheme("blocks", 8, 32),
    "4 bit/128": Scheme("blocks", 4, 128),
    "4 bit/64": Scheme("blocks", 4, 64),
    "4 bit/32": Scheme("blocks", 4, 32),
}


def run(x: np.ndarray, weight: np.ndarray, scheme: Scheme) -> np.ndarray:
    """The layer as the engine builds it, weights inside the graph."""
    g = Graph("linear")
    y = g.linear(g.input("x", FLOAT, "B", K), constant(weight), None, scheme)
    g.output(y, "y", FLOAT, "B", N)
    initializers = []
    for recipe in g.recipes:
        arrays = recipe.make(recipe.tensor.make())
        initializers += [
            numpy_helper.from_array(array, stored.name)
            for stored, array in zip(recipe.outputs, arrays, strict=True)
        ]
    session = ort.InferenceSession(g.model(initializers).SerializeToString())
    return session.run(None, {"x": x.astype(np.float32)})[0]


def main() -> None:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((N, K)) / np.sqrt(K)).astype(np.float32)
    print(f"{'error in %':26s}" + "".join(f"{name:>11s}" for name in SCHEMES))
    for kind in KINDS:
        x = activations(kind, rng)
        exact = x @ weight.T.astype(np.float64)
        rows = slice(1, None) if kind == "one huge row" else slice(None)
        line = f"{kind:26s}"
        for scheme in SCHEMES.values():
            difference = (run(x, weight, scheme) - exact)[rows]
            # Per row, so that large rows do not hide small ones.
            error = np.sqrt((difference**2).mean(1) / (exact[rows] ** 2).mean(1)).mean()
            line += f"{100 * error:11.2f}"
        print(line)


if __name__ == "__main__":
    main()
