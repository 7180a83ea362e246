"""The requests and answers of the OpenAI-compatible API, as its clients send and read them.

Fields that this server has no use for (`user`, `metadata`, `store` ...) are ignored, as OpenAI's own are by other
servers; those that would change the answer and cannot be honoured are refused by name in
`routes/chat_completions.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Stop = Annotated[str, Field(min_length=1, max_length=256)]


class _Strict(BaseModel):
    # JSON has types: "1" is no number.
    model_config = ConfigDict(strict=True)


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    url: str = Field(
        description="A `data:` URL; an http(s) URL where the server was started with --allow-urls."
    )
    detail: str | None = None


class ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(_Strict):
    include_usage: bool = False


class Writing(_Strict):
    """How an answer is written. All but OpenAI's own are this server's additions, named as in transformers."""

    temperature: float | None = Field(
        None, ge=0, le=2, description="0 takes the likeliest word each time, which is the default here."
    )
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=1_000_000)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    num_beams: int = Field(
        1, ge=1, le=64, description="Above 1: beam search. Cannot be drawn at the same time."
    )
    length_penalty: float = Field(1.0, ge=-10, le=10)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    no_repeat_ngram_size: int = Field(0, ge=0, le=100)
    min_tokens: int = Field(0, ge=0, le=1_000_000)
    max_tokens: int | None = Field(None, ge=1, description="At most the server's own limit.")
    stop: Stop | list[Stop] | None = None


class ChatRequest(Writing):
    # What else is sent is looked through for what must be refused.
    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = Field(None, description="One of /v1/models; where it is absent, the first of them.")
    messages: list[Message] = Field(
        min_length=1,
        description="The answer is about the last picture in them. What was said before that picture is not read.",
    )
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(1, ge=1, le=64)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class PromptDetails(BaseModel):
    cached_tokens: int = Field(description="Of picture and prompt: read for an earlier request, not again.")


class Usage(BaseModel):
    prompt_tokens: int = Field(description="The picture's tokens and the prompt's.")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class AdviceEntry(BaseModel):
    kind: str
    message: str


class About(BaseModel):
    """What OpenAI's format has no place for."""

    picture: str = Field(description="SHA-256 of the picture's pixels.")
    advice: list[AdviceEntry] = Field(description="What about the picture may make answers worse.")
    dropped_turns: int = Field(description="Oldest turns that no longer fit beside this question.")


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    blip2_chat: About


class Sample(BaseModel):
    """A picture that the embedded model was made for."""

    path: str
    name: str


class ModelAbout(BaseModel):
    """What the page tells about the model, and the limits it keeps to."""

    name: str = Field(description="The model's; one that is here at several precisions has an id for each.")
    engine: str
    precision: str
    device: str
    family: str
    embedded: bool
    description: str = Field(description="One line: what the model is good at.")
    max_tokens: int
    max_picture_bytes: int
    max_messages: int
    max_text: int
    slots: int
    allow_urls: bool
    samples: list[Sample]


class ModelEntry(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "blip2-chat"
    blip2_chat: ModelAbout


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelEntry]


class CaptionRequest(Writing):
    pictures: list[str] = Field(min_length=1, description="`data:` URLs; http(s) ones with --allow-urls.")
    start: str = Field("", max_length=1000, description='First words to go on from: "a photo of".')
    model: str | None = Field(None, description="One of /v1/models; where it is absent, the first of them.")


class AddressRequest(BaseModel):
    url: str = Field(max_length=8192, description="An http(s) address; needs --allow-urls.")


class CaptionError(BaseModel):
    message: str


class CaptionEntry(BaseModel):
    index: int
    name: str
    caption: str | None = None
    finish_reason: Literal["stop", "length"] | None = None
    score: float | None = None
    advice: list[AdviceEntry] = Field(default_factory=list)
    error: CaptionError | None = None


class CaptionResponse(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[CaptionEntry] = Field(description="One entry per picture, in order: a caption or an error.")
    usage: Usage


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorBody
