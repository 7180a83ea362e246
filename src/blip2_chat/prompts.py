"""Turns -> the text that a model family expects, and what is cut from what it writes.

The wordings are those of the BLIP-2 authors' evaluation (Li et al. 2023, section 4.2, and LAVIS): OPT is asked
"Question: {} Answer:", Flan-T5 "Question: {} Short answer:"; a conversation is "Question: {} Answer: {}." per
turn, joined by spaces. InstructBLIP (Dai et al. 2023) follows instructions as they are, so it is given the question
alone, and a caption is asked for as in LAVIS's example.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .checkpoint.config import Family
from .errors import GenerationError, PromptTooLongError


@dataclass(frozen=True)
class Exchange:
    """A question and the answer it got."""

    question: str
    answer: str


@dataclass(frozen=True)
class PromptTemplate:
    """How turns become a prompt. `{question}` and `{answer}` stand for the two; override any field."""

    question: str
    turn: str = "Question: {question} Answer: {answer}."
    caption: str = ""
    # Whether `caption` asks for a description; otherwise it is the description's first words.
    asks_for_caption: bool = False
    # A model that goes on to invent the next turn has finished its answer.
    stop: tuple[str, ...] = ("Question:", "\n")

    def __post_init__(self) -> None:
        if "{question}" not in self.question or not all(
            part in self.turn for part in ("{question}", "{answer}")
        ):
            raise GenerationError(
                "a prompt template needs {question} in `question`, and {question} and {answer} in `turn`"
            )

    def render(self, exchanges: Sequence[Exchange], question: str) -> str:
        """The whole conversation as one prompt that ends where the model is to answer."""
        turns = [_fill(self.turn, question=one.question, answer=one.answer.rstrip(". ")) for one in exchanges]
        return " ".join([*turns, _fill(self.question, question=question.strip())])

    def begun(self, start: str | None = None) -> str:
        """The first words of a caption, which the model continues: the user's `start`, or the template's."""
        if start is not None:
            return start.strip()
        return "" if self.asks_for_caption else self.caption


def _fill(template: str, **values: str) -> str:
    """All places at once, so that braces in what people say are only text."""
    return re.sub(r"\{(question|answer)\}", lambda place: values.get(place[1], place[0]), template)


@dataclass(frozen=True)
class PromptPreset:
    """How one architecture is asked: in conversations, and as its authors and LAVIS asked it for benchmarks."""

    chat: PromptTemplate
    # The paper's and LAVIS's templates for questions, with the length penalty of their 5 beams.
    paper: PromptTemplate
    paper_penalty: float
    lavis: PromptTemplate
    lavis_penalty: float
    # LAVIS's caption.
    caption: PromptTemplate


def _asked(question: str, caption: str = "", asks_for_caption: bool = False) -> PromptTemplate:
    """A benchmark's answers are taken as they are."""
    return PromptTemplate(question=question, caption=caption, asks_for_caption=asks_for_caption, stop=())


_ANSWER, _SHORT_ANSWER = "Question: {question} Answer:", "Question: {question} Short answer:"
_PHOTO = _asked(_ANSWER, "a photo of")
_INSTRUCTION = PromptTemplate(
    question="{question}",
    caption="Write a short description for the image.",
    asks_for_caption=True,
    stop=(),  # what it was asked to write may have several lines, and questions in it
)
# InstructBLIP's own captioning prompt (Dai et al. 2023, appendix).
_DESCRIPTION = _asked(_ANSWER, "A short image description:", asks_for_caption=True)

PROMPTS: dict[Family, PromptPreset] = {
    "opt": PromptPreset(
        chat=PromptTemplate(question=_ANSWER),
        paper=_asked(_ANSWER),
        paper_penalty=-1.0,
        lavis=_asked(_SHORT_ANSWER),
        lavis_penalty=0.0,
        caption=_PHOTO,
    ),
    "t5": PromptPreset(
        chat=PromptTemplate(question=_SHORT_ANSWER),
        paper=_asked(_SHORT_ANSWER),
        paper_penalty=-1.0,
        lavis=_asked(_SHORT_ANSWER),
        lavis_penalty=-1.0,
        caption=_PHOTO,
    ),
    "instruct-t5": PromptPreset(
        chat=_INSTRUCTION,
        paper=_asked(_SHORT_ANSWER),
        paper_penalty=-1.0,
        lavis=_asked(_SHORT_ANSWER),
        lavis_penalty=-1.0,
        caption=_DESCRIPTION,
    ),
    "instruct-llama": PromptPreset(
        chat=_INSTRUCTION,
        paper=_asked(_SHORT_ANSWER),
        paper_penalty=0.0,
        lavis=_asked(_SHORT_ANSWER),
        lavis_penalty=0.0,
        caption=_DESCRIPTION,
    ),
}
TEMPLATES: dict[Family, PromptTemplate] = {family: preset.chat for family, preset in PROMPTS.items()}


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt that fits: its text, its token ids, and how many of the oldest turns had to go."""

    text: str
    token_ids: list[int]
    dropped_turns: int


def fit(
    template: PromptTemplate,
    encode: Callable[[str], list[int]],
    exchanges: Sequence[Exchange],
    question: str,
    budget: int,
) -> FittedPrompt:
    """The longest recent part of the conversation whose prompt has at most `budget` tokens.

    The oldest turns go first; the picture is not in `budget` and never goes. `GenerationError` when the
    question alone is too long.
    """
    for dropped in range(len(exchanges) + 1):
        text = template.render(exchanges[dropped:], question)
        token_ids = encode(text)
        if len(token_ids) <= budget:
            return FittedPrompt(text, token_ids, dropped)
    raise PromptTooLongError("the question alone", len(token_ids), budget)
