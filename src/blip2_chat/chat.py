"""A picture and what was said about it."""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import Unpack

from .attribution import Attribution, WordAttribution
from .checkpoint.tokenizer import Tokenizer
from .conversation_file import SavedConversation, SavedPicture, Turn
from .display import chat_html
from .engines.engine import Engine, Floats
from .errors import ConversationError, GenerationError
from .generation.answer import Answer, Writing
from .generation.rows import Choice, tokenise_choices
from .generation.scoring import checked_choices, shares
from .generation.settings import Decoding, Settings
from .images import Advice, Picture, PictureLimits, PictureSource, advise, open_picture
from .prompts import Exchange, FittedPrompt, PromptTemplate, fit
from .system.progress import Progress


class ChatModel(Protocol):
    """What a conversation needs of a model; `Model` has it."""

    name: str
    engine: Engine
    template: PromptTemplate
    tokenizer: Tokenizer
    limits: PictureLimits

    def open(self, picture: PictureSource) -> Picture: ...

    def prompt_budget(self, decoding: Decoding) -> int: ...

    def write(
        self, picture: Picture, prompt: str, decoding: Decoding, stop: Sequence[str] | None = None
    ) -> Writing: ...

    def attribute(
        self,
        picture: Picture,
        prompt: str,
        answer: str,
        *,
        method: str = "occlusion",
        on_progress: Progress | None = None,
    ) -> Floats: ...

    def attribute_words(
        self,
        picture: Picture,
        prompt: str,
        answer: str,
        *,
        method: str = "occlusion",
        on_progress: Progress | None = None,
    ) -> tuple[Floats, list[WordAttribution]]: ...

    def choice_budget(self, choices: Sequence[Choice]) -> int: ...

    def score_tokenised(self, picture: Picture, prompt: str, choices: Sequence[Choice]) -> list[float]: ...


class Chat:
    """A conversation about one picture. Made by `Model.chat`; earlier questions are context for later ones."""

    def __init__(
        self,
        model: ChatModel,
        picture: PictureSource,
        *,
        template: PromptTemplate | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        Decoding.of(**settings)  # a wrong setting is said now, not at the first question
        self.model = model
        self.picture = model.open(picture)
        self.template = template or model.template
        self.settings: Settings = settings
        self.turns: list[Turn] = []
        self._source = os.fspath(picture) if isinstance(picture, str | os.PathLike) else None

    def __repr__(self) -> str:
        return f"<Chat about {self.picture.name} with {self.model.name}: {len(self.turns)} turns>"

    def _repr_html_(self) -> str:
        captions = [f"{turn.start} {turn.text}".strip() for turn in self.turns if turn.question is None]
        exchanges = [(turn.question, turn.text) for turn in self.turns if turn.question is not None]
        return chat_html(self.picture.image, self.picture.name, captions, exchanges)

    @property
    def advice(self) -> list[Advice]:
        """What about the picture may make answers worse, with the measured numbers; empty when all is well."""
        return advise(self.picture.image)

    def caption(self, start: str | None = None, **settings: Unpack[Settings]) -> Answer:
        """Describes the picture; `start` are first words to go on from, such as "a photo of"."""
        for _ in self.stream_caption(start, **settings):
            pass
        return self.turns[-1].answer

    def ask(self, question: str, **settings: Unpack[Settings]) -> Answer:
        """Answers a question, with the turns before as context. `settings` are `Decoding`'s, for this once.

        Raises `GenerationError` when the question is empty, no text, or alone too long for the model. Broken off
        by ctrl-C, what was written stays as the last of `turns`.
        """
        for _ in self.stream(question, **settings):
            pass
        return self.turns[-1].answer

    def stream(self, question: str, **settings: Unpack[Settings]) -> Iterator[str]:
        """`ask`, piece by piece as it is written; the turn is complete when the iterator ends."""
        decoding = self._decoding(settings)
        question = checked_question(question)
        budget = self.model.prompt_budget(decoding)
        prompt = fit(self.template, self.model.tokenizer.encode, self.exchanges, question, budget)
        return self._write(prompt, decoding, question=question)

    def choose(self, question: str, choices: Sequence[str]) -> list[tuple[str, float]]:
        """`Model.choose` with the turns before as context; the most probable answer becomes the turn's.

        No setting of `Decoding` applies, because nothing is generated. Raises `GenerationError`.
        """
        started = time.perf_counter()
        question = checked_question(question)
        model, answers = self.model, checked_choices(choices)
        tokenised = tokenise_choices(answers, question, model.tokenizer, model.engine.config)
        budget = model.choice_budget(tokenised)
        prompt = fit(self.template, model.tokenizer.encode, self.exchanges, question, budget)
        scores = model.score_tokenised(self.picture, prompt.text, tokenised)
        seconds = time.perf_counter() - started
        about: Any = {
            "prompt_tokens": len(prompt.token_ids) + model.engine.config.num_query_tokens,
            "seconds": seconds,
            "first_word_seconds": seconds,
        }
        order = sorted(range(len(answers)), key=lambda index: -scores[index])
        best, *others = [
            Answer(answers[index], tokenised[index].token_ids[:-1], score=scores[index], **about)
            for index in order
        ]
        self.turns.append(
            Turn(question, replace(best, others=tuple(others)), dropped_turns=prompt.dropped_turns)
        )
        probabilities = shares(scores)
        return [(answers[index], probabilities[index]) for index in order]

    def stream_caption(self, start: str | None = None, **settings: Unpack[Settings]) -> Iterator[str]:
        """`caption`, piece by piece as it is written."""
        if not isinstance(start, str | None):
            raise GenerationError(f"start is {_kind(start)}; give the first words of the caption, as text")
        text = self.template.caption if start is None else start.strip()
        prompt = FittedPrompt(text, self.model.tokenizer.encode(text), 0)
        return self._write(prompt, self._decoding(settings), start=self.template.begun(start))

    @property
    def exchanges(self) -> list[Exchange]:
        """The answered questions so far: the context of the next one. Captions are no part of it."""
        return [Exchange(turn.question, turn.text) for turn in self.turns if turn.question and turn.text]

    def show(
        self,
        turn: int = -1,
        *,
        words: bool = False,
        method: str = "occlusion",
        on_progress: Progress | None = None,
    ) -> Attribution:
        """What an answer depends on in the picture; `turn` is its place among `turns`, by default the last.

        At the end of a notebook's cell it is the picture with these regions in colour; `heat` has the numbers. With
        `words`, each word stands under it, coloured by how much it depends on the picture, with a small picture of
        what it depends on. The turns before are context, as they were for the answer. Raises `ConversationError` when
        there is no such turn, and `GenerationError` when its answer is empty. See `Model.attribution` for what is
        computed, and for `method`.
        """
        try:
            shown = self.turns[turn]
        except IndexError:
            raise ConversationError(f"there is no turn {turn}; there are {len(self.turns)}") from None
        place = self.turns.index(shown)
        if shown.question is None:
            prompt = shown.start
        else:
            before = [
                Exchange(one.question, one.text) for one in self.turns[:place] if one.question and one.text
            ]
            prompt = self.template.render(before[shown.dropped_turns :], shown.question)
        how: Any = {"method": method, "on_progress": on_progress}
        found: Sequence[WordAttribution] = ()
        if words:
            heat, found = self.model.attribute_words(self.picture, prompt, shown.text, **how)
        else:
            heat = self.model.attribute(self.picture, prompt, shown.text, **how)
        return Attribution(self.picture.image, heat, shown.question, shown.text, tuple(found))

    def undo(self) -> Turn:
        """Takes back the last turn and returns it; `ConversationError` when there is none."""
        if not self.turns:
            raise ConversationError("there is no turn to undo")
        return self.turns.pop()

    def reset(self) -> None:
        """Forgets all turns; the picture stays."""
        self.turns.clear()

    def save(self, path: str | Path) -> None:
        """Writes the conversation as JSON: the picture's path or URL (or the picture itself, when it came
        from neither), its digest, the model's name, and every turn."""
        source = self._source if self._source is not None else self._as_data_url()
        picture = SavedPicture(self.picture.name, source, self.picture.digest)
        SavedConversation(self.model.name, picture, tuple(self.turns)).write(Path(path))

    @classmethod
    def resume(
        cls,
        model: ChatModel,
        conversation: SavedConversation,
        *,
        where: str = "the conversation",
        picture: PictureSource | None = None,
    ) -> Chat:
        """Resumes a saved conversation; see `Model.load_chat`."""
        about = conversation.picture
        chat = cls(model, _saved_picture(model, about.source) if picture is None else picture)
        if chat.picture.digest != about.digest:
            raise ConversationError(
                f"{where} is about {about.name}, and {chat.picture.name} is another picture: give the one it is about"
            )
        chat.turns = list(conversation.turns)
        return chat

    def _decoding(self, settings: Settings) -> Decoding:
        both: dict[str, Any] = {**self.settings, **settings}
        return Decoding.of(**both)

    def _write(
        self, prompt: FittedPrompt, decoding: Decoding, question: str | None = None, start: str = ""
    ) -> Iterator[str]:
        writing = self.model.write(self.picture, prompt.text, decoding, self.template.stop)
        complete = False
        try:
            yield from writing
            complete = True
        finally:
            answer = writing.answer()
            if complete or answer.text:
                self.turns.append(Turn(question, answer, start, prompt.dropped_turns))

    def _as_data_url(self) -> str:
        png = io.BytesIO()
        self.picture.image.save(png, "PNG")
        return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode("ascii")


def checked_question(question: str) -> str:
    """The question on one line; `GenerationError` when it is no text, or empty."""
    if not isinstance(question, str):
        raise GenerationError(f"the question is {_kind(question)}: ask something about the picture, as text")
    question = " ".join(question.split())
    if not question:
        raise GenerationError("the question is empty: ask something about the picture")
    return question


def _kind(value: object) -> str:
    """What a value that should have been text is."""
    return "None" if value is None else f"of type {type(value).__name__}"


def _saved_picture(model: ChatModel, source: str) -> PictureSource:
    if not source.startswith("data:"):
        return source
    # `save` writes a PNG, several times as large as the photo's own file: its bytes are here already.
    limits = replace(model.limits, max_bytes=max(model.limits.max_bytes, len(source)))
    return open_picture(source, limits=limits)
