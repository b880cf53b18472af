"""Answers as the OpenAPI document describes them; the functions `write` of each dialect make them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class Usage(_Answer):
    """Tokens of sources and results."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(_Answer):
    """One result."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: dict[str, Any] | None = None
    score: float | None = None


class CompletionAnswer(_Answer):
    """Answer of POST /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    source_was_cut: list[bool] | None = None
    warnings: list[str] | None = None


class ChatMessage(_Answer):
    """The message of a result."""

    role: Literal["assistant"]
    content: str


class ChatChoice(_Answer):
    """One result."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    logprobs: dict[str, Any] | None = None
    score: float | None = None


class ChatAnswer(_Answer):
    """Answer of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    source_was_cut: list[bool] | None = None
    warnings: list[str] | None = None


class ResponseAnswer(_Answer):
    """Answer of POST /v1/responses."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete"]
    output: list[dict[str, Any]]
    usage: dict[str, Any]


class ModelCard(_Answer):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_source_tokens: int | None = None
    max_target_tokens: int | None = None


class ModelList(_Answer):
    """The models."""

    object: Literal["list"]
    data: list[ModelCard]


class GeneratedToken(_Answer):
    """A token of a result."""

    id: int
    text: str
    logprob: float | None = None
    special: bool
    attention: list[float] | None = None


class GeneratedDetails(_Answer):
    """What `details` tells of a result."""

    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    generated_tokens: int
    seed: int | None = None
    input_length: int
    tokens: list[GeneratedToken] | None = None
    top_tokens: list[list[GeneratedToken]] | None = None
    source_tokens: list[str] | None = None
    source_offsets: list[list[int]] | None = None
    prefill: list[dict[str, Any]] | None = None


class Generated(_Answer):
    """The target of one source."""

    generated_text: str
    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    summary_text: str | None = None
    translation_text: str | None = None
    details: GeneratedDetails | None = None
    sequences: list[dict[str, Any]] | None = None
    score: float | None = None
    source_was_cut: bool | None = None
    warnings: list[str] | None = None


class Translated(_Answer):
    """Answer of POST /translate."""

    translatedText: str | list[str]
    alternatives: list[str] | list[list[str]] | None = None
    detectedLanguage: dict[str, Any] | list[dict[str, Any]] | None = None


class Detected(_Answer):
    """A language, and how sure it is in percent."""

    confidence: float
    language: str


class Language(_Answer):
    """A language and those that it is translated to."""

    code: str
    name: str
    targets: list[str]


class Frontend(_Answer):
    """What LibreTranslate's clients ask for first."""

    charLimit: int
    keyRequired: bool
    language: dict[str, Any]


class OpenAIProblem(_Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIError(_Answer):
    """An error in OpenAI's form."""

    error: OpenAIProblem


class GenerateError(_Answer):
    """An error in TGI's form."""

    error: str
    error_type: Literal["validation", "generation", "overloaded", "incomplete_generation"]
    field: str | None = None


class TranslateError(_Answer):
    """An error in LibreTranslate's form."""

    error: str


_ERRORS: dict[str, type[BaseModel]] = {
    "openai": OpenAIError,
    "generate": GenerateError,
    "libretranslate": TranslateError,
}
_MEANINGS = {
    400: "a field is wrong",
    401: "no key, or a wrong one",
    404: "no such model",
    408: "the body came too slowly",
    413: "the body or the source is too large",
    422: "a field is wrong, or no token may follow",
    429: "the queue is full: see Retry-After",
    500: "an unexpected error",
    503: "the model is being loaded, or the server stops: see Retry-After",
    504: "not done in time",
}


def errors(dialect: str) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a dialect's routes, for the OpenAPI document."""
    return {status: {"model": _ERRORS[dialect], "description": text} for status, text in _MEANINGS.items()}


EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "the answer; events, if a stream is wanted", "content": {"text/event-stream": {}}}
}
"""That a route may stream."""
