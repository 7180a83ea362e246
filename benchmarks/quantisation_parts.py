"""Which part of the model pays for integers: the embedded model on its held-out questions, one part at a time.

    python benchmarks/quantisation_parts.py [--checkpoint FOLDER] [--limit QUESTIONS]

Each line is a conversion in which only the named part is stored as integers (first the two real precisions): exact
match on questions, F1 of the objects in captions, and the error of the query vectors over 50 pictures.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path

import numpy as np

import blip2_chat
from blip2_chat.checkpoint.inspect import inspect
from blip2_chat.engines.onnx.convert import Precision, Schemes, convert
from blip2_chat.engines.onnx.graph.builder import Scheme
from blip2_chat.evaluation.held_out import Evaluation, HeldOut

FLOAT = Scheme()
COLUMNS = Scheme("columns")


def blocks(bits: int, size: int) -> Scheme:
    return Scheme("blocks", bits, size)


# Name -> the precision, or schemes of picture encoder, language model and head.
VARIANTS: dict[str, Precision | Schemes] = {
    "int8": "int8",
    "int4": "int4",
    "picture encoder: columns": Schemes(COLUMNS, FLOAT, FLOAT),
    "picture encoder: 8 bit/128": Schemes(blocks(8, 128), FLOAT, FLOAT),
    "picture encoder: 4 bit/128": Schemes(blocks(4, 128), FLOAT, FLOAT),
    "language model: columns": Schemes(FLOAT, COLUMNS, FLOAT),
    "language model: 8 bit/128": Schemes(FLOAT, blocks(8, 128), FLOAT),
    "language model: 4 bit/256": Schemes(FLOAT, blocks(4, 256), FLOAT),
    "language model: 4 bit/128": Schemes(FLOAT, blocks(4, 128), FLOAT),
    "language model: 4 bit/32": Schemes(FLOAT, blocks(4, 32), FLOAT),
    "head: 8 bit/128": Schemes(FLOAT, FLOAT, blocks(8, 128)),
    "head: 4 bit/128": Schemes(FLOAT, FLOAT, blocks(4, 128)),
}


def measure(
    checkpoint: Path, variant: Precision | Schemes, limit: int | None
) -> tuple[float, float, np.ndarray]:
    """(exact match, caption F1, query vectors of the first 50 pictures)."""
    held_out = HeldOut.open("seen")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        if isinstance(variant, Schemes):
            convert(inspect(checkpoint), folder, "int8", how=variant)
        else:
            convert(inspect(checkpoint), folder, variant)
        model = blip2_chat.load(folder)
        report = Evaluation(model, held_out, limit).run()
        with zipfile.ZipFile(held_out.path) as archive:
            names = sorted({question.picture for question in held_out.questions})[:50]
            vectors = np.stack([model.query_vectors(model.open(archive.read(name))) for name in names])
        model.engine.close()
    return report.exact_match, report.caption_f1, vectors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    embedded = Path(blip2_chat.__file__).parent / "demo"
    parser.add_argument("--checkpoint", type=Path, default=embedded)
    parser.add_argument("--limit", type=int, help="questions, and captions (default: all)")
    arguments = parser.parse_args()
    match, f1, exact = measure(arguments.checkpoint, "fp32", arguments.limit)
    print(f"{'fp32':28s} exact match {100 * match:6.2f}           caption F1 {100 * f1:6.2f}")
    for name, variant in VARIANTS.items():
        its_match, its_f1, vectors = measure(arguments.checkpoint, variant, arguments.limit)
        error = np.sqrt(((vectors - exact) ** 2).mean() / (exact**2).mean())
        print(
            f"{name:28s} exact match {100 * its_match:6.2f} ({100 * (its_match - match):+.2f})   "
            f"caption F1 {100 * its_f1:6.2f} ({100 * (its_f1 - f1):+.2f})   query vectors off by {100 * error:.2f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
