"""A retrieval model of the official shape with synthetic weights: memory, and seconds per picture, text and match.

    python -m benchmarks.retrieval                    # Salesforce/blip2-itm-vit-g at int8 and int4
    python -m benchmarks.retrieval --precision fp32 --name Salesforce/blip2-itm-vit-g-coco

At full size it needs 7 GB of disk in the work folder and of memory what `blip2-chat models` says. Every precision is
measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from blip2_chat.checkpoint.catalogue import KNOWN_RETRIEVERS
from blip2_chat.checkpoint.config import QFormerConfig, VisionConfig
from blip2_chat.checkpoint.inspect import inspect_retriever
from blip2_chat.checkpoint.retrieval_config import RetrievalConfig
from blip2_chat.conversion.calibration import NONE
from blip2_chat.conversion.convert import convert
from blip2_chat.retriever_loading import load_retriever
from blip2_chat.system.memory import peak_memory

from .child import figures_of, tell
from .synthetic import TINY, write_weights

_TINY = RetrievalConfig(
    VisionConfig(64, 128, 2, 4, image_size=28, patch_size=14),
    QFormerConfig(64, 2, 4, 128, vocab_size=120),
    num_query_tokens=8,
    embedding_size=16,
)
# As many pictures as are matched in one batch.
_CANDIDATES = 16
_SECONDS = 1800
_TEXT = "a woman sitting on the beach with a dog"


def shape_of(name: str) -> RetrievalConfig:
    """Of an official checkpoint, or `TINY`."""
    return _TINY if name == TINY else next(one.config for one in KNOWN_RETRIEVERS if one.name == name)


def write_checkpoint(folder: Path, name: str) -> Path:
    """Writes float16 safetensors in shards, configuration, vocabulary and preprocessor of the checkpoint `name`."""
    shape = shape_of(name)
    write_weights(folder, shape)
    config = {
        "architectures": ["Blip2ForImageTextRetrieval"],
        "model_type": "blip-2",
        "image_text_hidden_size": shape.embedding_size,
        "num_query_tokens": shape.num_query_tokens,
        "vision_config": asdict(shape.vision),
        "qformer_config": {
            **asdict(shape.qformer),
            "encoder_hidden_size": shape.vision.hidden_size,
            "use_qformer_text_input": True,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    side = shape.vision.image_size
    preprocessor = {
        "size": {"height": side, "width": side},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    control = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(_TEXT.split())]
    rest = (f"w{number}" for number in range(len(control), shape.qformer.vocab_size))
    (folder / "vocab.txt").write_text("\n".join([*control, *rest]))
    return folder


def measure(folder: Path) -> None:
    """Reports the figures of a converted folder as they come; seconds and bytes."""
    started = time.perf_counter()
    retriever = load_retriever(folder, force=True)
    tell({"load": time.perf_counter() - started})
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (480, 640, 3), dtype=np.uint8) for _ in range(4)]
    rest = iter(pictures)
    tell({"embed_picture": _median(lambda: retriever.embed_picture(next(rest)), 3)})
    tell({"embed_text": _median(lambda: retriever.embed_text(_TEXT), 5)})
    encoded = [retriever.encode(pictures[0])] * _CANDIDATES
    seconds = _median(lambda: retriever.match_pictures(encoded, _TEXT), 2)
    tell({"match": seconds / _CANDIDATES, "peak_memory": peak_memory()})


def _median(run: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default=KNOWN_RETRIEVERS[0].name)
    parser.add_argument("--precision", nargs="*", default=["int8", "int4"])
    parser.add_argument("--work", type=Path, default=Path("bench-work"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure is not None:
        measure(asked.measure)
        return
    label = asked.name.rsplit("/", 1)[-1]
    source = asked.work / label
    if not (source / "vocab.txt").is_file():
        write_checkpoint(source, asked.name)
    for precision in asked.precision:
        folder = asked.work / f"{label}-{precision}"
        started = time.perf_counter()
        convert(
            inspect_retriever(source),
            folder,
            precision,
            name=label,
            calibration=NONE,
            check=False,
            force=True,
        )
        converting = time.perf_counter() - started
        disk = sum(path.stat().st_size for path in folder.iterdir())
        figures = figures_of("retrieval", "--measure", folder, seconds=_SECONDS)
        print(
            json.dumps({"precision": precision, "convert": converting, "disk": disk, **figures}), flush=True
        )


if __name__ == "__main__":
    main()
