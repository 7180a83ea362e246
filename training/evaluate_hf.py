"""Measure a checkpoint on the held-out sets with ``transformers`` alone, none of our own inference code.

Greedy decoding; an answer is right when it equals the true one after lower-casing and without a final
full stop. The caption score is the F1 of the kinds named against the kinds there.
Run: ``python -m training.evaluate_hf``.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from .catalog import KINDS
from .export import DEMO
from .heldout import SETS

BATCH = 64


def prompt(turns: Sequence[Sequence[str]], question: str) -> str:
    """The prompt of one question after these turns."""
    before = "".join(f"Question: {asked} Answer: {answer}. " for asked, answer in turns)
    return f"{before}Question: {question} Answer:"


def normal(answer: str) -> str:
    return answer.strip().lower().rstrip(".").strip()


def kinds_in(text: str) -> set[str]:
    """The names of the things a caption mentions, in the singular."""
    text = text.lower()
    found = set()
    for kind in KINDS:
        if re.search(rf"\b(?:{kind.name}|{kind.plural})\b", text):
            found.add(kind.name)
    return found


class Answerer:
    """A checkpoint folder, loaded with transformers in float32."""

    def __init__(self, folder: Path) -> None:
        self.processor = Blip2Processor.from_pretrained(folder)
        self.model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def __call__(self, asked: Sequence[tuple[Image.Image, str]]) -> list[str]:
        """The model's continuation of each prompt; prompts of one length go together, so none is padded."""
        answers = [""] * len(asked)
        groups: dict[int, list[int]] = defaultdict(list)
        for index, (_, text) in enumerate(asked):
            groups[len(self.processor.tokenizer(text).input_ids)].append(index)
        for indices in groups.values():
            for start in range(0, len(indices), BATCH):
                chosen = indices[start : start + BATCH]
                inputs = self.processor(
                    images=[asked[i][0] for i in chosen],
                    text=[asked[i][1] for i in chosen],
                    return_tensors="pt",
                )
                written = self.model.generate(**inputs, do_sample=False, max_new_tokens=48)
                new = written[:, inputs["input_ids"].shape[1] :]
                for i, text in zip(
                    chosen, self.processor.batch_decode(new, skip_special_tokens=True), strict=True
                ):
                    answers[i] = text
        return answers


def evaluate(answerer: Answerer, path: Path, limit: int = 0) -> dict[str, Any]:
    """All figures of one held-out set."""
    with zipfile.ZipFile(path) as archive:
        questions = [json.loads(line) for line in archive.read("questions.jsonl").splitlines()]
        captions = [json.loads(line) for line in archive.read("captions.jsonl").splitlines()]
        questions, captions = questions[: limit or None], captions[: limit // 4 or None]
        pictures = {
            line["picture"]: Image.open(io.BytesIO(archive.read(line["picture"]))).convert("RGB")
            for line in captions
        }
    asked = [(pictures[line["picture"]], prompt(line["turns"], line["question"])) for line in questions]
    by_task: dict[str, list[bool]] = defaultdict(list)
    for line, answer in zip(questions, answerer(asked), strict=True):
        by_task[line["task"]].append(normal(answer) == normal(line["answer"]))
    hit = named = there = exact = 0
    for line, text in zip(
        captions, answerer([(pictures[line["picture"]], "") for line in captions]), strict=True
    ):
        said, truth = kinds_in(text), set(line["objects"])
        hit, named, there = hit + len(said & truth), named + len(said), there + len(truth)
        exact += normal(text) == normal(line["caption"])
    right = sum(sum(values) for values in by_task.values())
    return {
        "questions": len(questions),
        "exact_match": round(right / len(questions), 4),
        "by_task": {task: round(sum(values) / len(values), 4) for task, values in sorted(by_task.items())},
        "captions": len(captions),
        "caption_f1": round(2 * hit / max(1, named + there), 4),
        "caption_exact": round(exact / len(captions), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=DEMO, help="the checkpoint")
    parser.add_argument("--sets", type=Path, default=DEMO, help="the folder of the held-out sets")
    parser.add_argument("--limit", type=int, default=0, help="only this many questions of each set")
    arguments = parser.parse_args()
    answerer = Answerer(arguments.folder)
    for held_out in SETS:
        figures = evaluate(answerer, arguments.sets / held_out.file, arguments.limit)
        print(json.dumps({"set": held_out.file} | figures, indent=1))


if __name__ == "__main__":
    main()
