"""One answer, whichever API asks for it: from a read conversation to the model, and its events back."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
import numpy as np
from starlette.requests import Request

from ..attribution import coloured, looking
from ..generation.rows import Choice, End, Event, Generated, Piece, Task, tokenise_choices
from ..generation.scoring import shares
from ..generation.settings import Decoding
from ..images import PreparedPicture
from ..metadata.keywords import keywords
from ..prompts import FittedPrompt
from . import conversation, schemas
from .conversation import Conversation
from .disconnect import unless_gone
from .errors import ApiError
from .forms.schema import Field, Form
from .model_worker import Served, client_of
from .scheduler import Ticket
from .service import Service

Result = TypeVar("Result")


@dataclass(frozen=True)
class Wanted:
    """What a request wants to be answered.

    top_logprobs: as for `Task`. copies: how many times the answer is given (greedy answers are identical).
    explain: whether the first answer is explained, or a given answer, which is then not written but explained.
    """

    conversation: Conversation
    decoding: Decoding
    form: Form | None = None
    top_logprobs: int | None = None
    copies: int = 1
    explain: bool | str = False


@dataclass
class Told:
    """What is known of an answer besides its text."""

    picture: PreparedPicture
    dropped_turns: int = 0
    choices: list[schemas.ChoiceAbout] = field(default_factory=list)
    attribution: str | None = None  # a `data:` URL


class Answering:
    """The answer to one request. `start` it, iterate for its events, and `cancel` it however that ends."""

    def __init__(
        self, service: Service, request: Request, served: Served, wanted: Wanted, deadline: float
    ) -> None:
        """`deadline`: of `anyio.current_time`."""
        self.deadline = deadline
        self.usage: schemas.Usage | None = None  # once all events were read
        self._service = service
        self._request = request
        self._served = served
        self._wanted = wanted
        self._told: Told | None = None
        self._ticket: Ticket | None = None
        self._first: list[Event] = []
        self._events: AsyncIterator[Event] | None = None
        self._prompt = ""

    @property
    def told(self) -> Told:
        """From the start on."""
        assert self._told is not None, "not started"
        return self._told

    async def start(self) -> None:
        """Until the first token, or until a form is filled: what goes wrong by then can be an error status."""
        try:
            await self._in_time(self._begin())
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Frees the slots at the next token; also after the end."""
        if self._ticket is not None:
            self._served.scheduler.cancel(self._ticket)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events, of the first copy; `TimeoutError` after the deadline. Then `usage` is there."""
        ends: list[End] = []
        for event in self._first:
            yield event
            ends += [event] if isinstance(event, End) else []
        while self._events is not None:
            with anyio.fail_after(max(0, self.deadline - anyio.current_time())):
                try:
                    event = await anext(self._events)
                except StopAsyncIteration:
                    break
            ends += [event] if isinstance(event, End) else []
            yield event
        if self._ticket is not None and self.usage is None:
            self.usage = self._service.finish(
                self._served, self._ticket, ends, self._prompt, self._wanted.copies
            )

    async def whole(self) -> tuple[dict[int, list[Piece]], list[End]]:
        """The pieces of each answer, and their ends in order; 504 after the deadline."""
        return await self._in_time(self._collected())

    async def _collected(self) -> tuple[dict[int, list[Piece]], list[End]]:
        pieces: dict[int, list[Piece]] = {}
        ends: list[End] = []
        async for event in self:
            if isinstance(event, Piece):
                pieces.setdefault(event.index, []).append(event)
            else:
                ends.append(event)
        return pieces, sorted(ends, key=lambda end: end.index)

    async def _in_time(self, work: Awaitable[Result]) -> Result:
        return await unless_gone(self._request, work, self.deadline - anyio.current_time())

    async def _begin(self) -> None:
        wanted, served = self._wanted, self._served
        picture = await served.open(wanted.conversation.picture, client=client_of(self._request))
        self._told = Told(picture)
        if wanted.form is not None:
            self._first = await self._filled(wanted.form)
            return
        prompt = await self._fitted(wanted.conversation, wanted.decoding)
        self._prompt = prompt.text
        self._told.dropped_turns = prompt.dropped_turns
        self._ticket = served.submit(picture, self._task(prompt), self._request)
        self._events = aiter(self._ticket)
        self._first = [await anext(self._events)]

    async def _fitted(self, asked: Conversation, decoding: Decoding) -> FittedPrompt:
        return await anyio.to_thread.run_sync(conversation.prompt, asked, self._served.model, decoding)

    def _task(self, prompt: FittedPrompt) -> Task:
        decoding = self._wanted.decoding
        stop = (*self._served.model.template.stop, *decoding.stop)
        instruction = self._served.model.tokenizer.instruction(prompt.text)
        if isinstance(self._wanted.explain, str):
            given = (self._choice(self._wanted.explain),)
            return Task(prompt.token_ids, decoding, choices=given, instruction=instruction)
        return Task(
            prompt.token_ids,
            decoding,
            stop,
            self._wanted.top_logprobs,
            instruction=instruction,
        )

    # Explaining

    def _choice(self, answer: str) -> Choice:
        model = self._served.model
        return tokenise_choices([answer], self._prompt, model.tokenizer, model.engine.config)[0]

    async def explain(self, answer: str) -> None:
        """Which parts of the picture the answer depends on, as `told.attribution`, where that was asked for; 504
        after the deadline."""
        if not self._wanted.explain or not answer.strip():
            return
        model, picture = self._served.model, self.told.picture
        steps = looking(
            model.engine,
            model.tokenizer,
            picture.pixels,
            self._prompt,
            self._choice(answer),
        )
        heat = await self._in_time(self._served.scheduler.work(steps))
        png = io.BytesIO()
        coloured(heat, *picture.size).save(png, "PNG")
        self.told.attribution = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode('ascii')}"

    # Forms

    async def _filled(self, form: Form) -> list[Event]:
        """Asks for one field after the other -> the whole answer as JSON."""
        values: dict[tuple[str, ...], Any] = {}
        usages: list[schemas.Usage] = []
        tokens: list[int] = []
        texts: dict[
            str, str
        ] = {}  # by their questions: a text and a list of what it names are about the same
        given = self._wanted.conversation
        for one in form.asked:
            is_caption = given.only_caption and one.values is None
            question = "" if is_caption else form.question(one, given.question)
            if one.values is None and question in texts:
                values[one.path] = value_of(one, texts[question])
                continue
            asked = replace(given, question=question)
            if one.values is None:
                texts[question], end, usage = await self._written(asked)
                values[one.path] = value_of(one, texts[question])
            else:
                values[one.path], end, usage = await self._chosen(one, asked)
            usages.append(usage)
            tokens += end.token_ids
        copies = self._wanted.copies
        self.usage = schemas.Usage.added(usages, copies)
        text = json.dumps(form.fill(values), ensure_ascii=False)
        return [Piece(0, text), End(0, Generated(tokens, finish_reason="stop", text=text))]

    async def _written(self, asked: Conversation) -> tuple[str, Generated, schemas.Usage]:
        """A text, as without a form."""
        prompt = await self._fitted(asked, self._wanted.decoding)
        ticket, ends = await self._run(self._task(prompt))
        ends = ends[:1]
        self._know(prompt)
        return ends[0].text, ends[0].result, self._service.finish(self._served, ticket, ends, prompt.text)

    async def _chosen(self, one: Field, asked: Conversation) -> tuple[Any, Generated, schemas.Usage]:
        """The likeliest of a field's values."""
        assert one.values is not None
        if not asked.question:
            raise ApiError(
                400, "there is no question to choose an answer to: ask something", param=asked.param
            )
        model = self._served.model
        texts = list(dict.fromkeys(text for said in one.texts for text in said))
        choices = await anyio.to_thread.run_sync(
            tokenise_choices, texts, asked.question, model.tokenizer, model.engine.config
        )
        longest = max(len(choice.token_ids) for choice in choices)
        decoding = Decoding(max_new_tokens=longest)  # as much room as the answer takes
        prompt = await self._fitted(asked, decoding)
        self._know(prompt)
        slots, instruction = self._service.settings.slots, model.tokenizer.instruction(prompt.text)
        results: list[Generated] = []
        tickets: list[Ticket] = []
        for start in range(0, len(choices), slots):
            some = choices[start : start + slots]
            task = Task(prompt.token_ids, decoding, choices=some, instruction=instruction)
            ticket, ends = await self._run(task)
            tickets.append(ticket)
            results += [end.result for end in sorted(ends, key=lambda end: end.index)]
        scores = dict(zip(texts, (result.score for result in results), strict=True))
        said = [max(ways, key=scores.__getitem__) for ways in one.texts]
        # Two ways to say a value are two ways for it to be the answer.
        totals = [float(np.logaddexp.reduce([scores[text] for text in ways])) for ways in one.texts]
        probabilities = shares(totals)
        order = sorted(range(len(totals)), key=lambda index: -totals[index])
        ranked = [
            schemas.RankedValue(
                value=one.values[index], logprob=totals[index], probability=round(probabilities[index], 6)
            )
            for index in order
        ]
        self.told.choices.append(
            schemas.ChoiceAbout(field=".".join(one.path), question=asked.question, ranked=ranked)
        )
        best = results[texts.index(said[order[0]])]
        usage = self._service.finish(self._served, tickets[0], [End(0, best)], prompt.text)
        return ranked[0].value, best, usage

    async def _run(self, task: Task) -> tuple[Ticket, list[End]]:
        """A task from its submission to its end."""
        ticket = self._ticket = self._served.submit(self.told.picture, task, self._request)
        try:
            return ticket, [event async for event in ticket if isinstance(event, End)]
        finally:
            self._served.scheduler.cancel(ticket)
            self._ticket = None

    def _know(self, prompt: FittedPrompt) -> None:
        self.told.dropped_turns = max(self.told.dropped_turns, prompt.dropped_turns)


def value_of(field: Field, text: str) -> str | list[str]:
    """A text, or the things that it names."""
    return list(keywords([text]))[: field.most] if field.is_list else text
