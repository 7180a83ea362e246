"""One of the server's models, with the thread that writes its answers, and what its requests have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.requests import Request

from ..checkpoint.catalogue import KNOWN
from ..checkpoint.inspect import EMBEDDED
from ..errors import GenerationError, PictureError
from ..generation.rows import End, Task
from ..generation.settings import SETTINGS, Decoding
from ..images import PreparedPicture
from ..model import Model
from . import schemas
from .errors import ApiError, request_name, shutting_down, worded
from .model_ids import name_of
from .pictures.open import Pictures
from .scheduler import Scheduler, Stopped, Ticket
from .settings import Settings


def client_of(request: Request) -> str:
    """Requests of one address take turns with those of others."""
    return request.client.host if request.client else ""


class Served:
    """A model under the id that requests choose it by. A ticket belongs to the scheduler of its own model."""

    def __init__(self, model_id: str, model: Model, settings: Settings, pictures: Pictures) -> None:
        self.id = model_id
        self.model = model
        self.scheduler = Scheduler(model, settings.slots)
        self.is_embedded = model.name == EMBEDDED
        self._settings = settings
        self._pictures = pictures
        self.started = int(time.time())

    def entry(self, samples: list[schemas.Sample]) -> schemas.ModelEntry:
        """What `/v1/models` tells; `samples` are the pictures that the page offers to try it with."""
        engine, settings = self.model.engine, self._settings
        return schemas.ModelEntry(
            id=self.id,
            created=self.started,
            blip2_chat=schemas.ModelAbout(
                name=name_of(self.model),
                engine=engine.name,
                precision=engine.precision,
                device=engine.device,
                family=engine.config.family,
                embedded=self.is_embedded,
                description=self._description(),
                max_tokens=self.longest_answer,
                max_picture_bytes=settings.max_picture_bytes,
                max_messages=settings.max_messages,
                max_text=settings.max_text,
                slots=settings.slots,
                allow_urls=settings.allow_urls,
                settings=self._sliders(),
                samples=samples,
            ),
        )

    def _sliders(self) -> list[schemas.SettingAbout]:
        """The settings that have a slider, with what this model and server allow."""
        allowed = {"num_beams": self._settings.slots, "max_new_tokens": self.longest_answer}
        return [
            schemas.SettingAbout(
                name=request_name(name),
                title=slider.title,
                help=setting.help,
                minimum=slider.least,
                maximum=min(slider.most, allowed.get(name, slider.most)),
                step=slider.step,
                value=slider.start,
            )
            for name, setting in SETTINGS.items()
            if (slider := setting.slider) is not None
        ]

    def _description(self) -> str:
        if self.is_embedded:
            return "Small, and a part of the package. Knows drawn scenes, not photographs."
        for known in KNOWN:
            if known.name == self.model.name:
                return f"{known.description[0].upper()}{known.description[1:]}."
        return self.model.engine.config.architecture.summary

    @property
    def longest_answer(self) -> int:
        """Tokens. In a decoder-only model's context an answer must leave room for the question."""
        config = self.model.engine.config
        room = max(1, config.prompt_budget // 2) if config.text.is_decoder_only else self._settings.max_tokens
        return min(self._settings.max_tokens, room)

    def decoding(self, asked: schemas.Writing, most: int | None, answers: int = 1) -> Decoding:
        """`Decoding` out of a request; 400 where it contradicts itself or needs more than there is."""
        for name, rows in (("n", answers), ("num_beams", asked.num_beams)):
            if rows > self._settings.slots:
                raise ApiError(
                    400, f"{name} is {rows}; this server allows {self._settings.slots}", param=name
                )
        top_p = None if asked.top_p == 1 else asked.top_p
        temperature = asked.temperature
        if temperature is None:
            # A client that asks for draws without a temperature means OpenAI's default, 1.
            drawn = top_p is not None or asked.top_k is not None or answers > 1
            temperature = 1.0 if drawn and asked.num_beams == 1 else 0.0
        longest = min(most or 50, self.longest_answer)
        stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        if len(stop) > 16:
            raise ApiError(400, f"{len(stop)} stop strings; this server allows 16", param="stop")
        try:
            return Decoding(
                max_new_tokens=longest,
                min_new_tokens=min(asked.min_tokens, longest),
                num_beams=asked.num_beams,
                length_penalty=asked.length_penalty,
                num_answers=answers if temperature or asked.num_beams > 1 else 1,
                temperature=temperature,
                top_k=asked.top_k if temperature else None,
                top_p=top_p if temperature else None,
                # numpy's generators take no negative seed; each of 64 bits has one of its own.
                seed=None if asked.seed is None else asked.seed % 2**64,
                repetition_penalty=asked.repetition_penalty,
                no_repeat_ngram_size=asked.no_repeat_ngram_size,
                stop=tuple(stop),
            )
        except GenerationError as error:
            param = error.setting and request_name(error.setting)
            raise ApiError(400, worded(error), param=param) from None

    async def open(self, source: str | bytes, name: str = "", client: str = "") -> PreparedPicture:
        """A picture that a request brought; 400 with what is wrong with it."""
        try:
            return await self._pictures.open(source, self.model.preprocess, name, client)
        except PictureError as error:
            raise ApiError(400, worded(error), code="invalid_image") from None

    def submit(self, picture: PreparedPicture, task: Task, request: Request) -> Ticket:
        """Takes a place in the queue. The caller must `scheduler.cancel` the ticket at the end, whatever
        happens."""
        try:
            return self.scheduler.submit(picture, task, client_of(request))
        except Stopped:
            raise shutting_down() from None

    def usage(self, written: Sequence[tuple[Ticket, Sequence[End]]], copies: int = 1) -> schemas.Usage:
        """What answers took; `copies` of each were given."""
        pictures = self.model.engine.config.num_query_tokens
        prompt = sum(pictures + len(ticket.task.prompt) for ticket, _ in written)
        tokens = copies * sum(len(end.result.token_ids) for _, ends in written for end in ends)
        return schemas.Usage(
            prompt_tokens=prompt,
            completion_tokens=tokens,
            total_tokens=prompt + tokens,
            prompt_tokens_details=schemas.PromptDetails(
                cached_tokens=sum(ticket.cached_tokens for ticket, _ in written)
            ),
        )
