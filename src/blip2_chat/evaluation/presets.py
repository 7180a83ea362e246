"""How the papers asked their benchmarks, and the figures they published.

Sources: the BLIP-2 paper (Li et al. 2023, arXiv:2301.12597v3, sections 4.2 and 4.4, tables 2, 3 and 5) and the
authors' code, LAVIS (lavis/projects/blip2/eval, lavis/models/blip2_models, lavis/processors/blip_processors.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from ..checkpoint.config import Family
from ..errors import Blip2ChatError
from ..generation.settings import Decoding
from ..prompts import PROMPTS, TEMPLATES, PromptPreset, PromptTemplate

Task = Literal["vqa", "captions"]
_T = TypeVar("_T")
# Questions longer than this are cut by LAVIS.
_MOST_WORDS = 50
# The one way of measuring retrieval: the paper's, with 128 candidates (`retrieval_run`).
RETRIEVAL = "retrieval"


@dataclass(frozen=True)
class Preset:
    """One way to ask a benchmark: a prompt per family of language models, and how answers are decoded."""

    name: str
    task: Task
    description: str
    templates: Mapping[Family, PromptTemplate]
    decoding: Decoding
    length_penalty: Mapping[Family, float]
    is_plain: bool  # questions go through LAVIS's `plain_question` first

    def template(self, family: Family) -> PromptTemplate:
        return self.templates[family]

    def settings(self, family: Family) -> Decoding:
        return replace(self.decoding, length_penalty=self.length_penalty[family])

    def prompt(self, family: Family, question: str | None) -> str:
        """The text before the answer; `question` None: before a caption."""
        template = self.template(family)
        if question is None:
            return template.caption
        return template.render((), plain_question(question) if self.is_plain else question)


def plain_question(question: str) -> str:
    """LAVIS's `blip_question` processor: lower case, without some punctuation, at most 50 words."""
    text = re.sub(r'[.!"()*#:;~]', "", question.lower()).rstrip(" ")
    return " ".join(text.split(" ")[:_MOST_WORDS])


def _by_family(value: Callable[[PromptPreset], _T]) -> dict[Family, _T]:
    return {family: value(preset) for family, preset in PROMPTS.items()}


def _no_penalty(preset: PromptPreset) -> float:
    return 1.0


_TEN_TOKENS = Decoding(max_new_tokens=10, min_new_tokens=1, num_beams=5)

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "blip2-vqa",
            "vqa",
            "the papers': OPT 'Question: … Answer:', others 'Question: … Short answer:', 5 beams, length penalty -1 "
            "(Vicuna 0)",
            _by_family(lambda preset: preset.paper),
            _TEN_TOKENS,
            _by_family(lambda preset: preset.paper_penalty),
            True,
        ),
        Preset(
            "lavis-vqa",
            "vqa",
            "LAVIS's: 'Question: … Short answer:' for all, 5 beams, length penalty 0 (OPT, Vicuna) or -1 (T5)",
            _by_family(lambda preset: preset.lavis),
            _TEN_TOKENS,
            _by_family(lambda preset: preset.lavis_penalty),
            True,
        ),
        Preset(
            "blip2-caption",
            "captions",
            "LAVIS's for the -coco checkpoints: 'a photo of' (InstructBLIP 'A short image description:'), 5 beams, "
            "8 to 30 tokens",
            _by_family(lambda preset: preset.caption),
            Decoding(max_new_tokens=30, min_new_tokens=8, num_beams=5),
            _by_family(_no_penalty),
            False,
        ),
        Preset(
            "chat",
            "vqa",
            "what `ask` and `caption` do: the same prompts, greedy",
            TEMPLATES,
            Decoding(),
            _by_family(_no_penalty),
            False,
        ),
    )
}
DEFAULT_PRESETS: dict[Task, str] = {"vqa": "blip2-vqa", "captions": "blip2-caption"}


def preset_for(task: Task, name: str | None) -> Preset:
    """The preset called `name`, or the task's own. `Blip2ChatError` when there is none for the task."""
    chosen = PRESETS.get(name or DEFAULT_PRESETS[task])
    if chosen is None or (chosen.task != task and chosen.name != "chat"):
        fitting = ", ".join(one.name for one in PRESETS.values() if one.task == task or one.name == "chat")
        raise Blip2ChatError(
            f"there is no preset {name!r} for {'questions' if task == 'vqa' else 'captions'}; choose from {fitting}"
        )
    return chosen


@dataclass(frozen=True)
class Published:
    """A figure that a source gives for one checkpoint on one benchmark."""

    benchmark: str
    checkpoint: str
    metric: str
    value: float
    source: str
    preset: str


def _paper(benchmark: str, metric: str, values: Mapping[str, float], preset: str) -> tuple[Published, ...]:
    return tuple(
        Published(benchmark, name, metric, value, "BLIP-2 paper", preset) for name, value in values.items()
    )


def _by_model(*values: float) -> dict[str, float]:
    names = ("blip2-opt-2.7b", "blip2-opt-6.7b", "blip2-flan-t5-xl", "blip2-flan-t5-xxl")
    return dict(zip(names, values, strict=True))


def _by_coco_model(*values: float) -> dict[str, float]:
    names = ("blip2-opt-2.7b-coco", "blip2-opt-6.7b-coco", "blip2-flan-t5-xl-coco")
    return dict(zip(names, values, strict=True))


def _recalls(
    benchmark: str, of_texts: Sequence[float], of_pictures: Sequence[float]
) -> tuple[Published, ...]:
    """R@1, R@5 and R@10, both ways."""
    return tuple(
        Published(benchmark, "blip2-itm-vit-g-coco", f"{way} R@{first}", value, "BLIP-2 paper", RETRIEVAL)
        for way, values in (("picture to text", of_texts), ("text to picture", of_pictures))
        for first, value in zip((1, 5, 10), values, strict=True)
    )


PUBLISHED = (
    *_paper("VQAv2 val", "accuracy", _by_model(53.5, 54.3, 63.1, 65.2), "blip2-vqa"),
    *_paper("OK-VQA", "accuracy", _by_model(31.7, 36.4, 40.7, 45.9), "blip2-vqa"),
    *_paper("GQA", "LAVIS accuracy", _by_model(34.6, 36.4, 44.2, 44.7), "blip2-vqa"),
    Published("VQAv2 val", "blip2-opt-2.7b", "accuracy", 51.88, "LAVIS", "lavis-vqa"),
    Published("VQAv2 val", "blip2-flan-t5-xl", "accuracy", 63.13, "LAVIS", "lavis-vqa"),
    Published("OK-VQA", "blip2-flan-t5-xl", "accuracy", 41.22, "LAVIS, with a lemmatiser", "lavis-vqa"),
    Published("GQA", "blip2-flan-t5-xl", "LAVIS accuracy", 43.98, "LAVIS", "lavis-vqa"),
    *_paper("COCO Karpathy test", "BLEU-4", _by_coco_model(43.7, 43.5, 42.4), "blip2-caption"),
    *_paper("COCO Karpathy test", "CIDEr", _by_coco_model(145.8, 145.2, 144.5), "blip2-caption"),
    *_paper("NoCaps", "CIDEr", _by_coco_model(119.7, 121.0, 121.6), "blip2-caption"),
    *_paper("NoCaps", "CIDEr in-domain", _by_coco_model(123.0, 123.7, 123.7), "blip2-caption"),
    *_paper("NoCaps", "CIDEr near-domain", _by_coco_model(117.8, 119.2, 120.2), "blip2-caption"),
    *_paper("NoCaps", "CIDEr out-domain", _by_coco_model(123.4, 124.4, 124.8), "blip2-caption"),
    *_paper("NoCaps", "SPICE", _by_coco_model(15.4, 15.3, 15.8), "blip2-caption"),
    # Both were measured with the weights that were fine-tuned on COCO.
    *_recalls("COCO Karpathy test", (85.4, 97.0, 98.5), (68.3, 87.7, 92.6)),
    *_recalls("Flickr30k Karpathy test", (97.6, 100.0, 100.0), (89.7, 98.1, 98.9)),
)


def published(model: str, benchmark: str, preset: str) -> dict[str, Published]:
    """What a source has for the checkpoint that a model's name or folder (`…/blip2-opt-2.7b-int8`) contains, by
    metric."""
    found = re.search(r"blip2-(?:opt-\d\.\d+b|flan-t5-x+l|itm-vit-g)(?:-coco)?", model.lower())
    checkpoint = found[0] if found else None
    return {
        one.metric: one
        for one in PUBLISHED
        if (one.benchmark, one.checkpoint, one.preset) == (benchmark, checkpoint, preset)
    }
