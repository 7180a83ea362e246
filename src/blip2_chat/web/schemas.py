"""The requests and answers of the OpenAI-compatible API, as its clients send and read them.

Fields that this server has no use for (`user`, `metadata`, `store` ...) are ignored, as OpenAI's own are by other
servers; those that would change the answer and cannot be honoured are refused by name in
`routes/chat_completions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..generation.settings import SETTINGS

Stop = Annotated[str, Field(min_length=1, max_length=256)]


_DIGEST = "^[0-9a-f]{64}$"


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
    image_url: (
        ImageUrl | Annotated[str, Field(description="The same without an object, as some tools send it.")]
    )

    @property
    def url(self) -> str:
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None


class StreamOptions(_Strict):
    include_usage: bool = False


def _setting(name: str, **changes: Any) -> Any:
    """The field for one of `Decoding`'s settings; `changes` where OpenAI's format or this server's limits differ."""
    setting = SETTINGS[name]
    known = {"default": setting.default, "ge": setting.least, "gt": setting.above, "le": setting.most}
    known = {"description": setting.help, **known, **changes}
    return Field(**{key: value for key, value in known.items() if value is not None or key == "default"})


class Writing(_Strict):
    """How an answer is written. All but OpenAI's own are this server's additions, named as in transformers."""

    temperature: float | None = _setting(
        "temperature",
        default=None,
        le=2,
        description=f"{SETTINGS['temperature'].help} 0 unless top_p, top_k or n ask for sampling.",
    )
    top_p: float | None = _setting("top_p")
    top_k: int | None = _setting("top_k", le=1_000_000)
    # OpenAI's seeds have 64 bits with a sign.
    seed: int | None = _setting("seed", ge=-(2**63), le=2**63 - 1)
    num_beams: int = _setting("num_beams", le=64)
    length_penalty: float = _setting("length_penalty")
    repetition_penalty: float = _setting("repetition_penalty")
    no_repeat_ngram_size: int = _setting("no_repeat_ngram_size", le=100)
    min_tokens: int = _setting("min_new_tokens", le=1_000_000)
    max_tokens: int | None = _setting("max_new_tokens", default=None)
    stop: Stop | list[Stop] | None = Field(None, description=SETTINGS["stop"].help)


class ChatRequest(Writing):
    # What else is sent is looked through for what must be refused.
    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = Field(None, description="One of /v1/models; where it is absent, the first of them.")
    messages: list[Message] = Field(
        min_length=1,
        description="The answer is about the last picture in them. What was said before that picture is not read.",
    )
    max_completion_tokens: int | None = _setting("max_new_tokens", default=None)
    n: int | None = _setting("num_answers", le=64)
    explain: bool | Annotated[str, Field(min_length=1, max_length=4000)] = Field(
        False,
        description="Also return which parts of the picture the answer depends on, as blip2_chat.attribution. A text "
        "is an answer to explain in place of writing one, which is then the answer.",
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] | None = Field(
        None, description="`json_schema` whose values are choices, which are ranked; or `text`."
    )
    tools: list[dict[str, Any]] | None = Field(
        None,
        description="Functions; the arguments of the one that `tool_choice` names are an answer with a form.",
    )
    tool_choice: str | dict[str, Any] | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class CalledFunction(BaseModel):
    name: str
    arguments: str = Field(description="JSON.")


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class Choice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class PromptDetails(BaseModel):
    cached_tokens: int = Field(description="Of picture and prompt: read for an earlier request, not again.")


class Usage(BaseModel):
    prompt_tokens: int = Field(description="The picture's tokens and the prompt's.")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails

    @classmethod
    def added(cls, usages: Sequence[Usage], copies: int = 1) -> Usage:
        """Of several prompts; `copies` of what was written were given."""
        prompt = sum(one.prompt_tokens for one in usages)
        tokens = copies * sum(one.completion_tokens for one in usages)
        cached = sum(one.prompt_tokens_details.cached_tokens for one in usages)
        return cls(
            prompt_tokens=prompt,
            completion_tokens=tokens,
            total_tokens=prompt + tokens,
            prompt_tokens_details=PromptDetails(cached_tokens=cached),
        )


class AdviceEntry(BaseModel):
    kind: str
    message: str


class RankedValue(BaseModel):
    value: str | bool | int | float | None
    logprob: float = Field(description="The sum over the answer's tokens and its end; 0 at best.")
    probability: float = Field(description="If it is one of these: they sum to 1.")


class ChoiceAbout(BaseModel):
    """How the values of one field of an answer with a form were ranked."""

    field: str = Field(description="Names of properties with dots between; empty: the whole answer.")
    question: str = Field(description="What the model was asked for it.")
    ranked: list[RankedValue] = Field(description="Best first.")


class About(BaseModel):
    """What OpenAI's format has no place for."""

    picture: str = Field(description="SHA-256 of the picture's pixels.")
    advice: list[AdviceEntry] = Field(description="What about the picture may make answers worse.")
    dropped_turns: int = Field(description="Oldest turns that no longer fit beside this question.")
    choices: list[ChoiceAbout] | None = Field(default=None, description="Of an answer with a form.")
    attribution: str | None = Field(
        None,
        description="With `explain`: a PNG as a data: URL, to lie over the picture. Its alpha channel says how "
        "much the answer depends on each place, from 0 to 255.",
    )


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
    questions: list[str]
    """To try about it."""


class SettingAbout(BaseModel):
    """A setting worth a slider, in the range that is worth trying with this model."""

    name: str = Field(description="The field of a request.")
    title: str
    help: str
    minimum: float
    maximum: float
    step: float
    value: float = Field(description="Where to start.")


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
    settings: list[SettingAbout] = Field(description="What the page offers to change.")
    samples: list[Sample]
    indexed_pictures: int | None = Field(
        default=None, description="That /v1/search finds; null if there is no index."
    )


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
    start: str = Field(
        "",
        max_length=1000,
        description='First words of the caption, which the model continues: "a photo of".',
    )
    model: str | None = Field(None, description="One of /v1/models; where it is absent, the first of them.")


class AddressRequest(BaseModel):
    url: str = Field(max_length=8192, description="An http(s) address; needs --allow-urls.")


class SearchRequest(_Strict):
    """One of `text`, `like` and `picture`."""

    text: str | None = Field(None, max_length=1000, description='What is to be seen: "two dogs on a beach".')
    like: str | None = Field(
        None, pattern=_DIGEST, description="The id of an earlier result, to find its like."
    )
    picture: str | None = Field(None, description="A `data:` URL, or an http(s) one with --allow-urls.")
    top: int = Field(10, ge=1, le=200, description="Number of results.")
    rerank: int = Field(
        128,
        ge=0,
        le=1000,
        description="Candidates that the model reads again with the text; fewer where that takes too long.",
    )


class SearchEntry(BaseModel):
    id: str = Field(description="SHA-256 of the picture's pixels.")
    name: str
    similarity: float = Field(description="From -1 to 1.")
    probability: float | None = Field(
        description="That the text describes the picture, if it was read again."
    )
    width: int
    height: int


class SearchResponse(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[SearchEntry] = Field(description="Best first.")


class IndexedPictureRequest(_Strict):
    id: str = Field(pattern=_DIGEST, description="Of a result.")
    size: int = Field(2048, ge=16, le=4096, description="Longest side, in pixels; it is never enlarged.")


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
