"""What quantisers lose where activations have outliers: planted in a checkpoint without changing its function.

    python -m benchmarks.outliers [--questions 400] [--seed 0] [--checkpoint FOLDER]

Real OPT and ViT-g have a few channels tens of times larger than the others (Dettmers et al. 2022, LLM.int8(),
section 4; Sun et al. 2024, Massive Activations); small models trained for a test have none. `plant` makes them:

- gains: a few channels of every layer norm's gain (and bias) times `scale`, and the columns that read them divided
  by it; before a ReLU likewise rows of one matrix against columns of the next;
- constants: a constant added to a few channels of a layer norm's bias, and taken back in the biases that follow.

In float32 the answers stay, to the last digits; a quantiser sees another model. Printed per planting: exact match on
the first held-out questions and the F1 of captions, for float32 and for each quantiser on the same weights. Figures
are kept in a file (`--save`) as soon as they are measured: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import save_file

import blip2_chat
from blip2_chat.checkpoint.config import LlamaConfig, OptConfig
from blip2_chat.checkpoint.inspect import Checkpoint, inspect
from blip2_chat.checkpoint.weights import Weights
from blip2_chat.conversion.convert import convert
from blip2_chat.conversion.fingerprint import fingerprint
from blip2_chat.evaluation.held_out import Evaluation, HeldOut
from blip2_chat.system.small_files import QFORMER_TOKENIZER

Kind = Literal["gains", "constants", "both"]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reader:
    """A norm and the linear layers that read it, by their names without `.weight` and `.bias`."""

    norm: str
    linears: tuple[str, ...]


def norms_of(checkpoint: Checkpoint) -> Iterator[Reader]:
    """Every norm of picture encoder and language model whose readers can take a change back."""
    config = checkpoint.config
    for i in range(config.vision.num_hidden_layers):
        name = f"vision_model.encoder.layers.{i}"
        yield Reader(f"{name}.layer_norm1", (f"{name}.self_attn.qkv",))
        yield Reader(f"{name}.layer_norm2", (f"{name}.mlp.fc1",))
    text = config.text
    if isinstance(text, OptConfig):
        for i in range(text.num_hidden_layers):
            name = f"language_model.model.decoder.layers.{i}"
            qkv = tuple(f"{name}.self_attn.{part}_proj" for part in "qkv")
            yield Reader(f"{name}.self_attn_layer_norm", qkv)
            yield Reader(f"{name}.final_layer_norm", (f"{name}.fc1",))
        return
    if isinstance(text, LlamaConfig):
        for i in range(text.num_hidden_layers):
            name = f"language_model.model.layers.{i}"
            yield Reader(f"{name}.input_layernorm", tuple(f"{name}.self_attn.{part}_proj" for part in "qkv"))
            yield Reader(f"{name}.post_attention_layernorm", (f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"))
        return
    for stack, layers in (("encoder", text.num_layers), ("decoder", text.num_decoder_layers)):
        for i in range(layers):
            name = f"language_model.{stack}.block.{i}.layer"
            yield Reader(f"{name}.0.layer_norm", tuple(f"{name}.0.SelfAttention.{part}" for part in "qkv"))
            last = 1
            if stack == "decoder":
                yield Reader(f"{name}.1.layer_norm", (f"{name}.1.EncDecAttention.q",))
                last = 2
            dense = f"{name}.{last}.DenseReluDense"
            parts = ("wi_0", "wi_1") if text.is_gated else ("wi",)
            yield Reader(f"{name}.{last}.layer_norm", tuple(f"{dense}.{part}" for part in parts))


def relus_of(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Pairs of layers whose rows and columns face each other through something homogeneous."""
    text = checkpoint.config.text
    if isinstance(text, OptConfig):
        if text.activation_function == "relu":
            for i in range(text.num_hidden_layers):
                name = f"language_model.model.decoder.layers.{i}"
                yield f"{name}.fc1", f"{name}.fc2"
        return
    if isinstance(text, LlamaConfig):
        for i in range(text.num_hidden_layers):
            name = f"language_model.model.layers.{i}.mlp"
            yield f"{name}.up_proj", f"{name}.down_proj"
        return
    for stack, layers, last in (("encoder", text.num_layers, 1), ("decoder", text.num_decoder_layers, 2)):
        for i in range(layers):
            dense = f"language_model.{stack}.block.{i}.layer.{last}.DenseReluDense"
            if text.is_gated:
                yield f"{dense}.wi_1", f"{dense}.wo"


def plant(
    checkpoint: Checkpoint, target: Path, kind: Kind, scale: float, channels: int = 2, seed: int = 0
) -> Path:
    """Writes the checkpoint as float32 into the new folder `target`, with outliers in a few channels per norm."""
    rng = np.random.default_rng(seed)
    weights = Weights(checkpoint)
    arrays: Arrays = {name: weights.read(name).astype(np.float64) for name in checkpoint.tensors}
    for reader in norms_of(checkpoint):
        gain = arrays[f"{reader.norm}.weight"]
        picked = rng.choice(len(gain), min(channels, len(gain)), replace=False)
        bias = arrays.get(f"{reader.norm}.bias")
        if kind in ("gains", "both"):
            gain[picked] *= scale
            if bias is not None:
                bias[picked] *= scale
            for linear in reader.linears:
                arrays[f"{linear}.weight"][:, picked] /= scale
        biases = [arrays.get(f"{linear}.bias") for linear in reader.linears]
        if kind in ("constants", "both") and bias is not None and all(one is not None for one in biases):
            added = scale * np.abs(gain).mean() * rng.choice((-1.0, 1.0), len(picked))
            if kind == "both":
                added *= np.abs(gain[picked]) / np.abs(gain).mean() / scale
            bias[picked] += added
            for linear in reader.linears:
                arrays[f"{linear}.bias"] -= arrays[f"{linear}.weight"][:, picked] @ added
    if kind in ("gains", "both"):
        for first, second in relus_of(checkpoint):
            rows = arrays[f"{first}.weight"]
            picked = rng.choice(len(rows), min(channels, len(rows)), replace=False)
            rows[picked] *= scale
            if f"{first}.bias" in arrays:
                arrays[f"{first}.bias"][picked] *= scale
            arrays[f"{second}.weight"][:, picked] /= scale
    target.mkdir(parents=True)
    for path in checkpoint.folder.iterdir():
        if path.suffix in (".json", ".txt", ".model") and not path.name.endswith(".index.json"):
            shutil.copyfile(path, target / path.name)
    if (checkpoint.folder / QFORMER_TOKENIZER).exists():
        (target / QFORMER_TOKENIZER).parent.mkdir()
        shutil.copyfile(checkpoint.folder / QFORMER_TOKENIZER, target / QFORMER_TOKENIZER)
    config = json.loads((target / "config.json").read_text())
    for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = "float32"
    (target / "config.json").write_text(json.dumps(config))
    save_file(
        {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
    return target


@dataclass(frozen=True)
class Figures:
    """Exact match of questions and F1 of captions, in percent."""

    exact_match: float
    caption_f1: float

    def __str__(self) -> str:
        return f"{self.exact_match:.2f} / {self.caption_f1:.1f}"


def measure(folder: Path, precision: str, engine: str, questions: int) -> Figures:
    """One quantiser on the first held-out questions and captions; ours is converted as for a user."""
    with tempfile.TemporaryDirectory() as temporary:
        if engine == "onnx":
            made = convert(inspect(folder), Path(temporary) / "model", precision, name="planted", check=False)
            model = blip2_chat.load(made)
        else:
            model = blip2_chat.load(folder, precision=precision, engine="torch")
        try:
            report = Evaluation(model, HeldOut.open("seen"), questions).run()
        finally:
            model.close()
    return Figures(100 * report.exact_match, 100 * report.caption_f1)


PLANTINGS: dict[str, tuple[Kind, float]] = {
    "as trained": ("gains", 1),
    "gains ×30": ("gains", 30),
    "gains ×100": ("gains", 100),
    "constants ×30": ("constants", 30),
    "constants ×100": ("constants", 100),
    "both ×30": ("both", 30),
    "both ×100": ("both", 100),
}
QUANTISERS = {
    "blip2-chat fp32": ("fp32", "onnx"),
    "blip2-chat int8": ("int8", "onnx"),
    "blip2-chat int4": ("int4", "onnx"),
    "bitsandbytes LLM.int8()": ("int8", "torch"),
    "bitsandbytes NF4": ("int4", "torch"),
}


class Results:
    """What is measured, in a file that is written after each figure: a run that was stopped goes on."""

    def __init__(self, path: Path, conditions: dict[str, object]) -> None:
        self._path = path
        self._conditions = conditions
        self._found: dict[str, dict[str, Figures]] = {}
        if path.is_file():
            saved = json.loads(path.read_text(encoding="utf-8"))
            # Of other conditions nothing can stand beside.
            if saved.get("conditions") == conditions:
                self._found = {
                    quantiser: {planting: Figures(*figures) for planting, figures in row.items()}
                    for quantiser, row in saved["figures"].items()
                }

    def __contains__(self, cell: tuple[str, str]) -> bool:
        quantiser, planting = cell
        return planting in self._found.get(quantiser, {})

    def add(self, quantiser: str, planting: str, figures: Figures) -> None:
        self._found.setdefault(quantiser, {})[planting] = figures
        rows = {name: {at: astuple(one) for at, one in row.items()} for name, row in self._found.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        written = {"conditions": self._conditions, "figures": rows}
        self._path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")

    def table(self) -> str:
        """Markdown: exact match / F1 of captions, a column per planting."""
        columns = [planting for planting in PLANTINGS if any(planting in row for row in self._found.values())]
        lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
        for quantiser in (name for name in QUANTISERS if name in self._found):
            row = self._found[quantiser]
            cells = [str(row[column]) if column in row else "–" for column in columns]
            lines.append(f"| {quantiser} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def run(results: Results, checkpoint: Path, arguments: argparse.Namespace) -> None:
    """Measures what is asked for and not yet in `results`."""
    for planting in _chosen(PLANTINGS, arguments.plantings):
        missing = [name for name in _chosen(_installed(), arguments.only) if (name, planting) not in results]
        if not missing:
            continue
        kind, scale = PLANTINGS[planting]
        with tempfile.TemporaryDirectory() as temporary:
            planted = Path(temporary) / "planted"
            plant(inspect(checkpoint), planted, kind, scale, arguments.channels, arguments.seed)
            for name in missing:
                figures = measure(planted, *QUANTISERS[name], arguments.questions)
                results.add(name, planting, figures)
                print(f"{planting:15s} {name:24s} {figures}", flush=True)


def _installed() -> list[str]:
    has_torch = all(find_spec(name) for name in ("torch", "transformers", "bitsandbytes"))
    return [name for name, (_, engine) in QUANTISERS.items() if engine == "onnx" or has_torch]


def _chosen(names: Iterable[str], parts: str | None) -> list[str]:
    return [name for name in names if not parts or any(part.strip() in name for part in parts.split(","))]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path(blip2_chat.__file__).parent / "demo")
    parser.add_argument("--questions", type=int, default=400, help="and as many captions (default: 400)")
    parser.add_argument("--channels", type=int, default=2, help="planted channels per norm (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plantings", help="comma-separated parts of their names, such as gains,×100")
    parser.add_argument("--only", help="quantisers, comma-separated parts of their names")
    parser.add_argument("--save", type=Path, default=Path("bench-work") / "outliers.json")
    arguments = parser.parse_args(given)
    checkpoint = inspect(arguments.checkpoint)
    results = Results(
        arguments.save,
        {
            "checkpoint": fingerprint(checkpoint.folder, checkpoint.weight_files),
            "version": blip2_chat.__version__,
            "questions": arguments.questions,
            "channels": arguments.channels,
            "seed": arguments.seed,
        },
    )
    if len(_installed()) < len(QUANTISERS):
        print("bitsandbytes is left out: it needs pip install '.[torch]'", file=sys.stderr)
    run(results, arguments.checkpoint, arguments)
    print(results.table())


if __name__ == "__main__":
    main()
