"""The members of BLIP-2's family: what sets each apart, for whoever asks.

A member is a combination of parts: the picture encoder and the Q-Former, which may read the instruction too, and a
language model, or the heads that match pictures with texts in its place. To know another, add its description to
`ARCHITECTURES`; CONTRIBUTING.md says what else it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .language.description import LanguageModel
from .text_config import LANGUAGE_MODELS


@dataclass(frozen=True)
class Architecture:
    """One member of the family."""

    # Its name in this package, in manifests and in what the server tells.
    family: str
    # `model_type` in `config.json`, and transformers' class, which `architectures` there names.
    model_type: str
    transformers_class: str
    # An official checkpoint, whose small files fit others of the family.
    example: str
    # What it is, in a phrase for people who choose one.
    summary: str
    # Its language model's kind; None: it has none, and matches pictures with texts.
    kind: str | None = None
    # Whether its Q-Former reads the prompt beside the picture.
    reads_instruction: bool = False

    @property
    def language(self) -> LanguageModel | None:
        return None if self.kind is None else LANGUAGE_MODELS[self.kind]

    @property
    def graphs(self) -> tuple[str, ...]:
        """Its ONNX graphs."""
        if self.language is None:
            return "picture", "matching"
        return ("picture", *(("query",) if self.reads_instruction else ()), *self.language.graphs)


_BLIP2, _INSTRUCTBLIP = "Blip2ForConditionalGeneration", "InstructBlipForConditionalGeneration"

RETRIEVAL = Architecture(
    family="retrieval",
    model_type="blip-2",
    transformers_class="Blip2ForImageTextRetrieval",
    example="Salesforce/blip2-itm-vit-g",
    summary="Matches pictures with texts.",
)
ARCHITECTURES: dict[str, Architecture] = {
    one.family: one
    for one in (
        Architecture(
            family="opt",
            model_type="blip-2",
            transformers_class=_BLIP2,
            kind="opt",
            example="Salesforce/blip2-opt-2.7b",
            summary="OPT. Captions and short answers.",
        ),
        Architecture(
            family="t5",
            model_type="blip-2",
            transformers_class=_BLIP2,
            kind="t5",
            example="Salesforce/blip2-flan-t5-xl",
            summary="Flan-T5. Follows questions well, and answers briefly.",
        ),
        Architecture(
            family="instruct-t5",
            model_type="instructblip",
            transformers_class=_INSTRUCTBLIP,
            kind="t5",
            reads_instruction=True,
            example="Salesforce/instructblip-flan-t5-xl",
            summary="InstructBLIP with Flan-T5. Follows instructions.",
        ),
        Architecture(
            family="instruct-llama",
            model_type="instructblip",
            transformers_class=_INSTRUCTBLIP,
            kind="llama",
            reads_instruction=True,
            example="Salesforce/instructblip-vicuna-7b",
            summary="InstructBLIP with Vicuna. Follows instructions, at length.",
        ),
        RETRIEVAL,
    )
}


def chat_architectures(model_type: object = None) -> tuple[Architecture, ...]:
    """Those that have a language model; of one `model_type`, if given."""
    return tuple(
        one
        for one in ARCHITECTURES.values()
        if one.language is not None and model_type in (None, one.model_type)
    )


def is_retrieval(raw: Any) -> bool:
    """Whether a parsed `config.json` is that of a model for image-text retrieval."""
    named = str(raw.get("architectures")) if isinstance(raw, dict) else ""
    return "ForImageTextRetrieval" in named
