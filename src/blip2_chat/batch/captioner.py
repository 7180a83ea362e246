"""The model at work on many pictures: each is encoded once, then each prompt is answered for the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..engines.engine import Floats
from ..errors import GenerationError, PromptTooLongError
from ..generation.loop import generate
from ..generation.rows import Choice, Task, tokenise_choices
from ..generation.scoring import checked_choices
from ..generation.settings import Decoding, Settings
from ..images import PictureLimits, Preprocess
from ..model import Model
from .inputs.pictures import Opened
from .result import Result, Written


@dataclass(frozen=True)
class Tasks:
    """The tasks for every picture: a number of captions, and questions to answer.

    settings: `Decoding`'s. start: first words of each caption, which the model continues (None: its own prompt).
    choices: answers of which every question gets the most probable one, in place of one that is generated.
    """

    captions: int = 1
    questions: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    start: str | None = None
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.captions < 0 or not (self.captions or self.questions):
            raise GenerationError("ask for captions (1 or more), or give questions")
        if not all(question.strip() for question in self.questions):
            raise GenerationError("a question is empty: ask something about the pictures")
        if self.start is not None and not self.captions:
            raise GenerationError(
                "a start is continued by captions, and none are asked for: ask for 1 or more"
            )
        if self.choices:
            checked_choices(self.choices)
            if not self.questions:
                raise GenerationError("choices are answers to questions, and there is no question: ask one")
        self.caption_decoding()

    def caption_decoding(self) -> Decoding:
        """Several captions are the best beams, unless a temperature says that they are to be drawn."""
        one = Decoding.of(**self.settings)
        if self.captions <= 1:
            return replace(one, num_answers=1)
        if one.temperature > 0:
            return replace(one, num_answers=self.captions)
        return replace(one, num_answers=self.captions, num_beams=max(one.num_beams, self.captions))

    def answer_decoding(self) -> Decoding:
        return replace(Decoding.of(**self.settings), num_answers=1)


@dataclass(frozen=True)
class _Prompt:
    question: str | None
    tokens: list[int]
    instruction: tuple[int, ...]
    decoding: Decoding
    choices: tuple[Choice, ...] = ()


class Captioner:
    """A model and its tasks. `encode` may run in another thread than `write`: they share nothing."""

    def __init__(self, model: Model, tasks: Tasks) -> None:
        """Raises `GenerationError` when a question does not fit the model's context."""
        self.model = model
        self.tasks = tasks
        template = model.template
        wanted: list[tuple[str | None, str, Decoding]] = []
        if tasks.captions:
            start = template.caption if tasks.start is None else tasks.start.strip()
            wanted.append((None, start, tasks.caption_decoding()))
        for question in tasks.questions:
            text = " ".join(question.split())
            wanted.append((question, template.render([], text), tasks.answer_decoding()))
        self._prompts = []
        for asked, text, decoding in wanted:
            tokens = model.tokenizer.encode(text)
            choices: tuple[Choice, ...] = ()
            if asked is not None and tasks.choices:
                choices = tokenise_choices(tasks.choices, text, model.tokenizer, model.engine.config)
            budget = model.choice_budget(choices) if choices else model.prompt_budget(decoding)
            if len(tokens) > budget:
                raise PromptTooLongError(repr(asked) if asked else "the caption prompt", len(tokens), budget)
            instruction = model.tokenizer.instruction(text)
            self._prompts.append(_Prompt(asked, tokens, instruction, decoding, choices))

    @property
    def preprocess(self) -> Preprocess:
        return self.model.preprocess

    @property
    def limits(self) -> PictureLimits:
        return self.model.limits

    def begin(self, opened: Opened) -> Result:
        """A picture's result before anything is written: what is known of it, and whose words it is to have."""
        return self.result(**opened.about())

    def result(self, **about: Any) -> Result:
        """`begin`, of a picture that was opened elsewhere."""
        return Result(model=self.model.name, precision=self.model.engine.precision, **about)

    def encode(self, pixels: Floats) -> Floats:
        """Pixels [B,3,H,W] -> what B pictures are to every question (`Engine.encode_image`)."""
        return self.model.engine.encode_image(pixels)

    def write(self, pictures: Floats, digests: Sequence[str]) -> list[Written]:
        """What `encode` made of B pictures -> their captions and answers. What a picture gets does not depend on the
        others of its batch."""
        captions: list[tuple[str, ...]] = [()] * len(pictures)
        answers: list[dict[str, str]] = [{} for _ in digests]
        scores: list[list[float]] = [[] for _ in digests]
        for number, prompt in enumerate(self._prompts):
            tasks = [self._task(prompt, digest, number) for digest in digests]
            vectors = self.model.engine.query(pictures, [prompt.instruction] * len(digests))
            for row, group in enumerate(generate(self.model.engine, self.model.tokenizer, vectors, tasks)):
                scores[row].append(group[0].mean_logprob)
                if prompt.question is None:
                    captions[row] = tuple(self._started(one.text) for one in group)
                else:
                    answers[row][prompt.question] = group[0].text
        return [
            Written(captions[row], answers[row], one[0] if self.tasks.captions else sum(one) / len(one))
            for row, one in enumerate(scores)
        ]

    def _task(self, prompt: _Prompt, digest: str, number: int) -> Task:
        """Samples depend on the picture and not on its place in a batch, so that a resumed run, or one on many
        machines, writes what an undisturbed one would have written."""
        decoding = prompt.decoding
        if prompt.choices:
            return Task(prompt.tokens, decoding, choices=prompt.choices)
        seeds = (decoding.seed or 0, int(digest[:16] or "0", 16), number)
        stop = (*decoding.stop, *self.model.template.stop)
        return Task(prompt.tokens, decoding, stop, seeds=seeds)

    def _started(self, text: str) -> str:
        """A caption with the first words that the user gave: they are part of the description."""
        return f"{(self.tasks.start or '').strip()} {text}".strip()

    def bytes_per_picture(self) -> int:
        """Memory that one more picture in a batch takes while it is written about."""
        config = self.model.engine.config
        text = config.text
        rows = max(self._task(one, "", 0).rows for one in self._prompts)
        new = max(
            max((len(choice.token_ids) for choice in one.choices), default=one.decoding.max_new_tokens)
            for one in self._prompts
        )
        read = config.num_query_tokens + max(len(one.tokens) for one in self._prompts)
        cache = text.cached_numbers * (read + new)
        vision = config.vision
        pixels_and_vectors = 3 * vision.image_size**2 + config.num_query_tokens * text.hidden_size
        if config.reads_instruction:
            pixels_and_vectors += vision.num_positions * vision.hidden_size
        # Reordering copies the cache; scores are copied a few times on their way to a choice.
        return 4 * (rows * (2 * cache + 4 * text.vocab_size) + 2 * pixels_and_vectors)
