"""The requests and answers of OpenAI's responses API, as its clients send and read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .schemas import About, Stop, Writing


class _Item(BaseModel):
    # Ids, annotations and the like, which clients send back with earlier answers, are ignored.
    model_config = ConfigDict(strict=True)


class InputText(_Item):
    type: Literal["input_text", "output_text", "text"]
    text: str


class InputImage(_Item):
    type: Literal["input_image"]
    image_url: str | None = Field(None, description="A `data:` URL; an http(s) URL with --allow-urls.")
    file_id: str | None = Field(None, description="Not supported: this server keeps no files.")


InputPart = Annotated[InputText | InputImage, Field(discriminator="type")]


class InputMessage(_Item):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputPart]


class InputOther(_Item):
    """Calls of tools, their results, and reasoning: accepted as a part of a history, and not read."""

    type: Literal["function_call", "function_call_output", "reasoning"]


class ResponsesRequest(Writing):
    # What else is sent is looked through for what must be refused.
    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = Field(None, description="One of /v1/models; where it is absent, the first of them.")
    input: str | list[InputMessage | InputOther] = Field(
        description="The answer is about the last picture in it. What was said before that picture is not read.",
    )
    instructions: str | None = Field(None, description="Ignored, like all system messages: BLIP-2 has none.")
    stream: bool | None = False
    max_output_tokens: int | None = Field(None, ge=1, description="Maximum length in tokens.")
    text: dict[str, Any] | None = Field(
        None, description="`format`: a `json_schema` whose values are choices, which are ranked; or `text`."
    )
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    store: bool | None = Field(None, description="This server stores nothing: true is refused.")
    previous_response_id: str | None = Field(None, description="Refused, because nothing is stored.")
    stop: Stop | list[Stop] | None = None


class OutputText(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)
    logprobs: list[Any] = Field(default_factory=list)


Status = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(BaseModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Status
    content: list[OutputText]


class OutputCall(BaseModel):
    id: str
    type: Literal["function_call"] = "function_call"
    call_id: str
    name: str
    arguments: str
    status: Status


class InputDetails(BaseModel):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(BaseModel):
    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Incomplete(BaseModel):
    reason: Literal["max_output_tokens"]


class ModelResponse(BaseModel):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    error: None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputMessage | OutputCall]
    parallel_tool_calls: bool = False
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    blip2_chat: About | None = None
