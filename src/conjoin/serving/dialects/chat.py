"""POST /v1/chat/completions: the last user message is the source, an assistant message behind it begins the target."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from conjoin.serving.dialects.call import Body, Call
from conjoin.serving.dialects.openai import FINISH, Sampling, notes, usage
from conjoin.serving.refusal import invalid
from conjoin.serving.request import Answer, Piece, Request, Result, Token


class TextPart(Body):
    """Text in a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None

    @property
    def text(self) -> str:
        """Its text."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class TextFormat(Body):
    """The only format of an answer."""

    type: Literal["text"]


class ChatBody(Sampling):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int | None, Field(ge=0)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=0)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    tools: Annotated[list[Any] | None, Field(max_length=0, description="only []")] = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Any] | None, Field(max_length=0, description="only []")] = None
    function_call: Literal["none", "auto"] | None = None
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None


def read(body: ChatBody, *, strict: bool = False) -> Call:
    """Return the request of a body.

    Args:
        strict: Refuse messages that the model cannot read, system texts and earlier turns; else they are left out.

    Raises:
        Refusal: there is no user message, or fields contradict each other.
    """
    source, prefix = source_and_prefix([(message.role, message.text) for message in body.messages], strict, "messages")
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs needs logprobs = true.", "top_logprobs")
    limits = [each for each in (body.max_completion_tokens, body.max_tokens) if each is not None]
    request = Request(
        source=source,
        settings=body.settings(min(limits, default=None)),
        prefix=prefix,
        stop=body.stops,
        seed=body.seed,
        top=(body.top_logprobs or 0) if body.logprobs else None,
        priority=body.priority or "interactive",
        timeout_s=body.timeout,
    )
    return Call(model=body.model, requests=[request])


def source_and_prefix(messages: Sequence[tuple[str, str]], strict: bool, field: str) -> tuple[str, str]:
    """Return the last user message, and the assistant's beginning of an answer behind it.

    Raises:
        Refusal: there is no user message; or, if `strict`, there are others.
    """
    users = [place for place, (role, _) in enumerate(messages) if role == "user"]
    if not users:
        raise invalid("There is no user message, which would be the source.", field)
    last = users[-1]
    behind = messages[last + 1 :]
    if any(role != "assistant" for role, _ in behind) or len(behind) > 1:
        raise invalid("Only one assistant message may follow the last user message; it begins the target.", field)
    if strict and last:
        raise invalid(f"The model reads one source; {last} messages before it cannot be read (chat = strict).", field)
    return messages[last][1], behind[0][1] if behind else ""


def write(answers: Sequence[Answer], *, id: str, created: int, model: str) -> dict[str, Any]:
    """Return the body of an answer."""
    return {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [_choice(index, result) for index, result in enumerate(answers[0].results)],
        "usage": usage(answers),
        **notes(answers),
    }


def _choice(index: int, result: Result) -> dict[str, Any]:
    choice = {
        "index": index,
        "message": {"role": "assistant", "content": result.continuation, "refusal": None},
        "logprobs": None if result.tokens is None else _logprobs(result.tokens),
        "finish_reason": FINISH[result.finish],
    }
    return choice if result.score is None else {**choice, "score": result.score}


def _logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    return {
        "content": [
            {
                **_token(token.text, token.logprob),
                "top_logprobs": [_token(each.text, each.logprob) for each in token.top],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _token(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}


class Stream:
    """The events of a streamed answer."""

    def __init__(self, *, id: str, created: int, model: str, copies: int, include_usage: bool) -> None:
        self._head = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._copies, self._usage = copies, include_usage

    def begin(self) -> list[dict[str, Any]]:
        """Return the events before the first piece."""
        return [self._event(row, {"role": "assistant", "content": ""}) for row in range(self._copies)]

    def piece(self, source: int, piece: Piece) -> list[dict[str, Any]]:
        """Return the events of a piece."""
        scored = [token for token in piece.tokens if token.logprob is not None]
        if not (piece.text or scored):
            return []
        return [self._event(piece.row, {"content": piece.text}, logprobs=_logprobs(scored) if scored else None)]

    def answer(self, source: int, answer: Answer) -> list[dict[str, Any]]:
        """Return the events at the end of a source."""
        return [
            {**self._event(row, {}, FINISH[result.finish]), **notes([answer])}
            for row, result in enumerate(answer.results)
        ]

    def end(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """Return the events at the end."""
        return [{**self._head, "choices": [], "usage": usage(answers)}] if self._usage else []

    def _event(
        self, index: int, delta: dict[str, Any], finish: str | None = None, *, logprobs: Any = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head, "choices": [choice]}
