"""Write a run's averaged weights as an official BLIP-2 checkpoint folder, in float16.

``python -m training.export`` writes the folder that ships with the package. ``transformers`` reads it
with ``Blip2ForConditionalGeneration.from_pretrained`` and ``Blip2Processor.from_pretrained``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from . import checkpoints
from .model import QUERIES, Shape, build_model
from .scenes import IMAGE_SIZE
from .tokenizer import BOS_ID, PAD_ID, SPECIALS, newline_id

DEMO = Path(__file__).parent.parent / "src" / "blip2_chat" / "demo"


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_picture_settings(folder: Path) -> None:
    """How pictures are prepared, as official checkpoints say it."""
    _write(
        folder / "preprocessor_config.json",
        {
            "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
            "image_mean": list(OPENAI_CLIP_MEAN), "image_std": list(OPENAI_CLIP_STD),
            "image_processor_type": "BlipImageProcessor", "processor_class": "Blip2Processor",
            "resample": 3, "rescale_factor": 1 / 255, "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        },
    )  # fmt: skip


def write_processor(folder: Path) -> None:
    """The picture and text processor's files, as official checkpoints have them."""
    write_picture_settings(folder)
    _write(
        folder / "processor_config.json", {"num_query_tokens": QUERIES, "processor_class": "Blip2Processor"}
    )


def write_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """tokenizer.json with its two companions, named so that old and new transformers read them."""
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"}
    decoder = {
        str(index): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": True,
        }
        for index, token in enumerate(SPECIALS)
    }  # fmt: skip
    _write(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": decoder, **special, "clean_up_tokenization_spaces": False,
            "model_max_length": 512, "padding_side": "left", "processor_class": "Blip2Processor",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )  # fmt: skip
    _write(folder / "special_tokens_map.json", special)


def export(run: str, folder: Path) -> None:
    """Replace the checkpoint's files in ``folder``; other files there are left alone."""
    found = checkpoints.complete(checkpoints.RUNS / run)
    if not found:
        raise SystemExit(f"{checkpoints.RUNS / run} has no checkpoint yet")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoints.RUNS / run / "tokenizer")
    stop = newline_id(tokenizer)
    model = build_model(stop, len(tokenizer), Shape(), seed=0)
    state = torch.load(found[-1] / checkpoints.WEIGHTS, map_location="cpu", weights_only=True)
    prefix = "model."
    model.load_state_dict(
        {
            name.removeprefix(prefix): value
            for name, value in state["averaged"].items()
            if name.startswith(prefix)
        }
    )
    model.half()
    model.generation_config = GenerationConfig(
        bos_token_id=BOS_ID, eos_token_id=stop, pad_token_id=PAD_ID, max_new_tokens=48
    )
    part = folder / "part"
    model.save_pretrained(part)
    folder.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        file.replace(folder / file.name)
    shutil.rmtree(part)
    write_tokenizer(tokenizer, folder)
    write_processor(folder)
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: step {state['step']}, {size / 2**20:.1f} MiB of weights")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="demo", help="the run in training/runs")
    parser.add_argument("--folder", type=Path, default=DEMO)
    arguments = parser.parse_args()
    export(arguments.name, arguments.folder)


if __name__ == "__main__":
    main()
