"""The requests and answers of Ollama's API, as its clients send and read them. What is not listed is ignored."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .schemas import Stop


class _Given(BaseModel):
    model_config = ConfigDict(strict=True)


class OllamaOptions(_Given):
    """How the answer is written; those of Ollama's options that BLIP-2 has a use for."""

    num_predict: int | None = Field(
        default=None, description="Maximum length in tokens; 0 or less: as long as allowed."
    )
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, le=1_000_000)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: Stop | list[Stop] | None = None
    repeat_penalty: float | None = Field(default=None, ge=0.01, le=100)
    num_beams: int = Field(default=1, ge=1, le=64, description="Beam search; an addition of this server.")
    # Another way to draw: refused unless it is off. (Penalties by presence or frequency, which some programs set for
    # every model, make little difference to a few words, and are ignored.)
    mirostat: int | None = None


class _Request(_Given):
    model: str | None = Field(
        default=None, description="One of /api/tags; where it is absent, the first of them."
    )
    stream: bool | None = Field(True, description="NDJSON, the default; or one JSON object.")
    format: str | dict[str, Any] | None = Field(
        None, description="A JSON schema whose values are choices, which are ranked."
    )
    options: OllamaOptions | None = None


class OllamaGenerateRequest(_Request):
    prompt: str | None = Field(default=None, description="A question; a picture without one is captioned.")
    images: list[str] | None = Field(default=None, description="One picture, as base64.")
    raw: bool | None = None


class OllamaMessage(_Given):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[str] | None = None


class OllamaChatRequest(_Request):
    messages: list[OllamaMessage] = Field(default_factory=list)
    tools: list[dict[str, Any]] | None = None


class OllamaShowRequest(_Given):
    model: str | None = None
    name: str | None = Field(default=None, description="The former name of `model`.")


class _Answer(BaseModel):
    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load"] | None = None
    total_duration: int | None = Field(default=None, description="Nanoseconds.")
    load_duration: int | None = None
    prompt_eval_count: int | None = Field(default=None, description="The picture's tokens and the prompt's.")
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class OllamaGenerateResponse(_Answer):
    response: str


class OllamaAnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class OllamaChatResponse(_Answer):
    message: OllamaAnswerMessage


class OllamaDetails(BaseModel):
    parent_model: str = ""
    format: str
    family: str
    families: list[str]
    parameter_size: str = ""
    quantization_level: str


class OllamaEntry(BaseModel):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaTags(BaseModel):
    models: list[OllamaEntry]


class OllamaRunningEntry(OllamaEntry):
    expires_at: str
    size_vram: int
    context_length: int


class OllamaRunning(BaseModel):
    models: list[OllamaRunningEntry]


class OllamaShown(BaseModel):
    modelfile: str = ""
    parameters: str = ""
    template: str
    license: str = ""
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(BaseModel):
    version: str


class OllamaError(BaseModel):
    error: str
