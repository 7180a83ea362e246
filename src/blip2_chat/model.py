"""A loaded model: pictures in, answers out."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from typing_extensions import Unpack

from .attribution import Found, WordAttribution, attribute, stretched, words_of
from .chat import Chat, checked_question
from .checkpoint.tokenizer import Tokenizer
from .conversation_file import SavedConversation
from .engines.engine import Engine, Floats
from .errors import GenerationError, PromptTooLongError
from .generation.answer import Answer, Writing
from .generation.reuse import StateCache, array_cache, kept_under
from .generation.rows import Choice, Task, tokenise_choices
from .generation.scoring import checked_choices, score_choices
from .generation.settings import Decoding, Settings
from .images import (
    Picture,
    PictureLimits,
    PictureSource,
    PreparedPicture,
    Preprocess,
    open_picture,
    to_pixels,
)
from .plan import Plan
from .prompts import TEMPLATES, PromptTemplate
from .system.progress import Progress, silent


class Model:
    """One BLIP-2 model on one engine. Made by `blip2_chat.load`; not for use by several threads at once."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        preprocess: Preprocess,
        name: str,
        template: PromptTemplate | None = None,
        limits: PictureLimits | None = None,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.name = name
        self.template = template or TEMPLATES[engine.config.family]
        self.limits = limits or PictureLimits()
        self.plan: Plan | None = None  # what `load` runs it with, and why
        # What a pickle holds in place of the weights: a function that loads the model again, and its arguments.
        self.reduction: tuple[object, ...] | None = None
        self._pictures = array_cache()
        self._vectors = array_cache()
        self.states = StateCache()

    def __repr__(self) -> str:
        return f"<Model {self.name}: {self.engine.name}, {self.engine.precision}, {self.engine.device}>"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled, a model is its name and settings; it is loaded where it is unpickled."""
        if self.reduction is None:
            raise pickle.PicklingError("only a model made by blip2_chat.load can be pickled")
        return self.reduction

    def __copy__(self) -> Model:
        return self  # the weights are not loaded twice

    def __deepcopy__(self, _: object) -> Model:
        return self

    def open(self, picture: PictureSource) -> Picture:
        """A path, URL, bytes, file, PIL image or array -> a picture, within this model's limits."""
        return open_picture(picture, limits=self.limits)

    def query_vectors(self, picture: Picture | PreparedPicture, instruction: Sequence[int] = ()) -> Floats:
        """The query vectors of a picture, which are the language model's input: float32 [1,Q,D].

        `instruction` is `tokenizer.instruction` of the prompt: where the Q-Former reads it, the vectors are computed
        once per picture and instruction; the picture is encoded once per content either way.
        """
        key = kept_under(picture.digest, instruction)
        vectors = self._vectors.get(key)
        if vectors is None:
            vectors = self.engine.query(self._encoded(picture), [instruction])
            self._vectors.put(key, vectors)
        return vectors

    def _encoded(self, picture: Picture | PreparedPicture) -> Floats:
        """The output of `Engine.encode_image`, which does not depend on the question."""
        encoded = self._pictures.get(picture.digest)
        if encoded is None:
            pixels = to_pixels(picture, self.preprocess) if isinstance(picture, Picture) else picture.pixels
            encoded = self.engine.encode_image(pixels)
            if (
                self.engine.config.reads_instruction
            ):  # else it is the query vectors, which are kept themselves
                self._pictures.put(picture.digest, encoded)
        return encoded

    def chat(
        self, picture: PictureSource, *, template: PromptTemplate | None = None, **settings: Unpack[Settings]
    ) -> Chat:
        """A conversation about one picture; `settings` are `Decoding`'s, for all its answers."""
        return Chat(self, picture, template=template, **settings)

    def caption(
        self, picture: PictureSource, start: str | None = None, **settings: Unpack[Settings]
    ) -> Answer:
        """Describes a picture; `start` is the beginning of the caption, which the model continues.

        `settings` are `Decoding`'s. Raises `PictureError` and `GenerationError`.
        """
        return self.chat(picture, **settings).caption(start)

    def ask(self, picture: PictureSource, question: str, **settings: Unpack[Settings]) -> Answer:
        """Answers one question about a picture; for several that build on each other there is `chat`.

        `settings` are `Decoding`'s. Raises `PictureError` and `GenerationError`.
        """
        question = checked_question(question)  # before the picture, which may be a download
        return self.chat(picture, **settings).ask(question)

    def generate(self, picture: PictureSource, prompt: str = "", **settings: Unpack[Settings]) -> Answer:
        """Continues a raw prompt ("this is a picture of"), or captions when it is empty.

        `settings` are `Decoding`'s. Raises `PictureError` and `GenerationError`.
        """
        decoding = Decoding.of(**settings)
        if not isinstance(prompt, str):
            raise GenerationError(f"the prompt is of type {type(prompt).__name__}; give text")
        writing = self.write(self.open(picture), prompt, decoding)
        for _ in writing:
            pass
        return writing.answer()

    def choose(
        self, picture: PictureSource, question: str, choices: Sequence[str]
    ) -> list[tuple[str, float]]:
        """Which of given answers fits best -> (answer, probability) pairs, most probable first.

        The probabilities are those of the answers given that it is one of `choices`: they sum to 1. They come from
        the sum of each answer's token log-probabilities, its end token included, so that "a dog" is not favoured
        over "a dog on a couch" for being the beginning of it; `score` gives the sums. Long answers have small sums,
        so choices of similar length compare best.

        Raises `PictureError`, and `GenerationError` for an empty question and for choices that are none.
        """
        question, choices = checked_question(question), checked_choices(choices)
        return self.chat(picture).choose(question, choices)

    def score(self, picture: PictureSource, prompt: str, answers: Sequence[str]) -> list[float]:
        """How likely the model finds each answer after a raw prompt: natural-log probabilities, 0 at best.

        Each is the sum over the answer's tokens and the end token after them. The prompt is read once for all
        answers, and not at all when the model has just answered it. `prompt` is as for `generate`; for a question
        there is `choose`. Raises `PictureError`, and `GenerationError` for answers that are not texts, empty, or
        given twice, and for a prompt or an answer that does not fit.
        """
        choices = tokenise_choices(checked_choices(answers), prompt, self.tokenizer, self.engine.config)
        ids = self.tokenizer.encode(prompt)
        room = self.choice_budget(choices)
        if len(ids) > room:
            raise PromptTooLongError("the prompt", len(ids), room)
        return self.score_tokenised(self.open(picture), prompt, choices)

    def score_tokenised(self, picture: Picture, prompt: str, choices: Sequence[Choice]) -> list[float]:
        """`score`, of a picture that is open, a prompt that fits, and answers that are tokenised."""
        tokens, instruction = self.tokenizer.encode(prompt), self.tokenizer.instruction(prompt)
        key = kept_under(picture.digest, instruction)
        vectors, before = self.query_vectors(picture, instruction), self.states.take(key, tokens)
        scores, after = score_choices(self.engine, self.tokenizer, vectors, tokens, choices, before)
        if after is not None:
            self.states.put(key, after)
        return scores

    def attribution(
        self,
        picture: PictureSource,
        question: str | None,
        answer: str | None = None,
        *,
        method: str = "occlusion",
        on_progress: Progress | None = None,
    ) -> Floats:
        """Which parts of the picture an answer depends on -> float32 [H, W] of the upright picture, 0 to 1.

        `question` None means the caption. `answer` is by default the one that the model gives; any other text
        can be asked about, such as one the model should have given. 1 is where it depends most; all is 0 when no
        place matters. `method`:

        - "occlusion": what the answer's log-probability loses when a region is covered, coarse to fine. At most 64
          pictures are encoded, in batches; `on_progress` is called with their number.
        - "gradient": integrated gradients on the picture encoder's patches. One picture is encoded, and 16 times the
          answer is read and differentiated. Torch engine only.
        - "attention": the language model's attention to the query vectors, times theirs to the patches. The
          cheapest, and the least certain. Torch engine only.

        Raises `PictureError` and `GenerationError`.
        """
        opened, prompt, answer = self._asked(picture, question, answer)
        return self.attribute(opened, prompt, answer, method=method, on_progress=on_progress)

    def word_attributions(
        self,
        picture: PictureSource,
        question: str | None,
        answer: str | None = None,
        *,
        method: str = "occlusion",
        on_progress: Progress | None = None,
    ) -> list[WordAttribution]:
        """`attribution` of each word of the answer: a map, and how much the word depends on the picture at all.

        All come from the same work as the map of the answer, whose log-probability is the sum of the words'.
        """
        opened, prompt, answer = self._asked(picture, question, answer)
        return self.attribute_words(opened, prompt, answer, method=method, on_progress=on_progress)[1]

    def attribute(
        self,
        picture: Picture,
        prompt: str,
        answer: str,
        *,
        method: str = "occlusion",
        on_progress: Progress | None = None,
    ) -> Floats:
        """`attribution` for what is opened and rendered already."""
        (whole,) = self._attributed(
            picture, prompt, self._choice(prompt, answer), (slice(None),), method, on_progress
        )
        return stretched(whole.heat, *picture.image.size)

    def attribute_words(
        self,
        picture: Picture,
        prompt: str,
        answer: str,
        *,
        method: str = "occlusion",
        on_progress: Progress | None = None,
    ) -> tuple[Floats, list[WordAttribution]]:
        """`attribute`, and the same of each word."""
        choice = self._choice(prompt, answer)
        words = words_of(self.tokenizer, choice.token_ids[:-1])
        parts = [slice(None), *(place for _, place in words)]
        whole, *found = self._attributed(picture, prompt, choice, parts, method, on_progress)
        most = max(one.weight for one in found) or 1
        size = picture.image.size
        return stretched(whole.heat, *size), [
            WordAttribution(word, stretched(one.heat, *size), one.weight / most)
            for (word, _), one in zip(words, found, strict=True)
        ]

    def _asked(
        self, picture: PictureSource, question: str | None, answer: str | None
    ) -> tuple[Picture, str, str]:
        """The picture, the whole prompt, and the answer, which is the model's own where none is given."""
        chat = self.chat(picture)
        asked = None if question is None else checked_question(question)
        prompt = self.template.caption if asked is None else self.template.render([], asked)
        if answer is None:
            answer = (chat.caption() if asked is None else chat.ask(asked)).text
        return chat.picture, prompt, answer

    def _choice(self, prompt: str, answer: str) -> Choice:
        """A given answer; `PromptTooLongError` where it does not fit after the prompt."""
        (choice,) = tokenise_choices(checked_choices([answer]), prompt, self.tokenizer, self.engine.config)
        ids = self.tokenizer.encode(prompt)
        room = self.choice_budget([choice])
        if len(ids) > room:
            raise PromptTooLongError("the prompt", len(ids), room)
        return choice

    def _attributed(
        self,
        picture: Picture,
        prompt: str,
        answer: Choice,
        parts: Sequence[slice],
        method: str,
        on_progress: Progress | None,
    ) -> list[Found]:
        return attribute(
            self.engine,
            self.tokenizer,
            to_pixels(picture, self.preprocess),
            prompt,
            answer,
            parts,
            method=method,
            on_progress=on_progress or silent,
        )

    def write(
        self,
        picture: Picture,
        prompt: str,
        decoding: Decoding,
        stop: Sequence[str] | None = None,
    ) -> Writing:
        """Starts an answer to a whole prompt; `stop` are the template's stop strings (the model's own by default).
        What an earlier prompt about this picture has in common with this one is not read again, unless the Q-Former
        reads the prompt: then the picture is another to the language model with each prompt, and only the same prompt
        is not read again."""
        started = time.perf_counter()
        tokens, instruction = self.tokenizer.encode(prompt), self.tokenizer.instruction(prompt)
        budget = self.prompt_budget(decoding)
        if len(tokens) > budget:
            raise PromptTooLongError("the prompt", len(tokens), budget)
        vectors = self.query_vectors(picture, instruction)
        stop = self.template.stop if stop is None else stop
        task = Task(tokens, decoding, (*decoding.stop, *stop), instruction=instruction)
        key = kept_under(picture.digest, instruction)
        state = self.states.take(key, tokens)
        keep = partial(self.states.put, key)
        return Writing(self.engine, self.tokenizer, vectors, task, state, keep, started)

    def prompt_budget(self, decoding: Decoding) -> int:
        """Prompt tokens that fit. In a decoder-only model the answer takes its place in the same context."""
        config = self.engine.config
        answer = decoding.max_new_tokens if config.text.is_decoder_only else 0
        return config.prompt_budget - answer

    def choice_budget(self, choices: Sequence[Choice]) -> int:
        """Prompt tokens that fit into the context with any of these answers."""
        answer = max(len(choice.token_ids) for choice in choices)
        config = self.engine.config
        return config.prompt_budget - (answer if config.text.is_decoder_only else 0)

    def load_chat(self, path: str | Path, picture: PictureSource | None = None) -> Chat:
        """Resumes a conversation that `Chat.save` wrote; `picture` when the saved path no longer leads to it.

        Raises `ConversationError` when the file is not one, or the picture is another.
        """
        return Chat.resume(self, SavedConversation.read(Path(path)), where=str(path), picture=picture)

    def close(self) -> None:
        """Frees the model's memory."""
        self.states.clear()
        self.engine.close()
