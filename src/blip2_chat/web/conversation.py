"""The messages of a chat request -> their picture, and the prompt."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import GenerationError
from ..generation.settings import Decoding
from ..model import Model
from ..prompts import Exchange, FittedPrompt, fit
from .errors import ApiError, worded
from .schemas import ImagePart, Message, TextPart
from .settings import Settings

# What some tools write before each picture ("Image 1:", "IMG_0815.jpg:"); no part of the question.
_LABEL = re.compile(r"(?:(?:image|picture|photo|frame) ?\d+|[^\s/]+\.[a-z]\w{2,3}):", re.IGNORECASE)


@dataclass(frozen=True)
class Conversation:
    """A picture, earlier questions and answers about it, and the new question; None for a caption."""

    picture: str
    exchanges: tuple[Exchange, ...]
    question: str
    param: str = "messages"  # the field of the request that it was in
    only_caption: bool = False  # texts are captions, whatever the request says


def read(
    messages: list[Message],
    settings: Settings,
    param: str = "messages",
    part: str = "add an image_url part to a user's message",
    only_caption: bool = False,
) -> Conversation:
    """`param`: the field of the request that has the messages. `part`: how a picture gets into them. `only_caption`:
    the last picture is to be captioned, whatever is said about it.

    Raises a 400 for messages without a picture or a question, or beyond the limits of this server.

    BLIP-2 sees one picture: the last one. Earlier turns were about another picture and are left out; so are
    system messages and the results of tools, which BLIP-2 does not have.
    """

    def wrong(text: str) -> ApiError:
        return ApiError(400, text, param=param)

    if len(messages) > settings.max_messages:
        raise wrong(f"{len(messages)} messages; this server allows {settings.max_messages}")
    parts = [part for message in messages for part in _parts(message)]
    pictures = sum(isinstance(part, ImagePart) for part in parts)
    if pictures > settings.max_pictures:
        raise wrong(f"{pictures} pictures; this server allows {settings.max_pictures} in a request")
    if sum(len(part.text) for part in parts if isinstance(part, TextPart)) > settings.max_text:
        raise wrong(f"the messages have more than {settings.max_text} characters of text")
    if messages[-1].role != "user":
        raise wrong("the last message must be the user's")

    picture: str | None = None
    exchanges: list[Exchange] = []
    asked: list[str] = []
    for message in messages:
        if message.role == "user":
            urls = [part.url for part in _parts(message) if isinstance(part, ImagePart)]
            if len(urls) > 1 and not only_caption:
                raise wrong(
                    "BLIP-2 looks at one picture at a time: send one per message, or many to /v1/caption"
                )
            if urls:
                picture, exchanges, asked = urls[-1], [], []
            asked += _texts(message)
        elif message.role == "assistant":
            question, answer = _joined(asked), " ".join(_texts(message))
            if question and answer:
                exchanges.append(Exchange(question, answer))
            asked = []
    if picture is None:
        raise wrong(f"there is no picture: {part}")
    if only_caption:
        return Conversation(picture, (), "", param, True)
    question = _joined(asked)
    if not question and exchanges:
        raise wrong("the last message is empty: ask something about the picture")
    return Conversation(picture, tuple(exchanges), question, param)


def prompt(conversation: Conversation, model: Model, decoding: Decoding) -> FittedPrompt:
    """The prompt of the conversation, with as many turns as fit; a 400 if not even the question fits."""
    if not conversation.question:
        text = model.template.caption
        return FittedPrompt(text, model.tokenizer.encode(text), 0)
    budget = model.prompt_budget(decoding)
    # A turn takes more than one token, so more turns than this cannot fit and need not be tried.
    recent = conversation.exchanges[-max(budget, 1) :]
    try:
        fitted = fit(model.template, model.tokenizer.encode, recent, conversation.question, budget)
    except GenerationError as error:
        raise ApiError(400, worded(error), param=conversation.param, code="context_length_exceeded") from None
    unread = len(conversation.exchanges) - len(recent)
    return FittedPrompt(fitted.text, fitted.token_ids, fitted.dropped_turns + unread)


def _parts(message: Message) -> list[TextPart | ImagePart]:
    if isinstance(message.content, str):
        return [TextPart(type="text", text=message.content)]
    return message.content or []


def _texts(message: Message) -> list[str]:
    return [part.text for part in _parts(message) if isinstance(part, TextPart)]


def _joined(texts: list[str]) -> str:
    if len(texts) > 1 and _LABEL.fullmatch(texts[0].strip()):
        texts = texts[1:]
    return " ".join(" ".join(texts).split())
