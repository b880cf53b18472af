"""POST /v1/responses: the input is the source."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from conjoin.serving.dialects.call import Body, Call, deterministic_or_sampled, only_set
from conjoin.serving.dialects.chat import source_and_prefix
from conjoin.serving.dialects.openai import Ignored, notes
from conjoin.serving.refusal import Refusal, invalid
from conjoin.serving.request import Answer, Piece, Request


class InputText(Body):
    """Text in an input message."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None


class InputMessage(Body):
    """A message of the input."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputText]
    id: str | None = None
    status: str | None = None

    @property
    def text(self) -> str:
        """Its text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class TextFormat(Body):
    """The only format of text."""

    type: Literal["text"]


class TextOptions(Body):
    """Options of text."""

    format: TextFormat | None = None
    verbosity: None = None


class ResponseBody(Ignored):
    """Body of POST /v1/responses."""

    model: str | None = None
    input: str | list[InputMessage]
    instructions: Annotated[str | None, Field(description="cannot be read by a model of one source: see --chat")] = None
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: float | None = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    stream: bool | None = None
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        Field(description="auto cuts a source that is too long, else it is refused"),
    ] = None
    text: TextOptions | None = None
    tools: Annotated[list[Any] | None, Field(max_length=0, description="only []")] = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    previous_response_id: None = None
    conversation: None = None
    background: Literal[False] | None = None
    prompt: None = None
    reasoning: None = None
    include: Annotated[list[Any] | None, Field(max_length=0, description="only []")] = None
    top_logprobs: Literal[0] | None = None
    stream_options: dict[str, bool] | None = None


def read(body: ResponseBody, *, strict: bool = False) -> Call:
    """Return the request of a body.

    Raises:
        Refusal: there is no source; or, if `strict`, there is more than the model can read.
    """
    if isinstance(body.input, str):
        source, prefix = body.input, ""
    else:
        messages = [(message.role, message.text) for message in body.input]
        source, prefix = source_and_prefix(messages, strict, "input")
    if strict and body.instructions:
        raise invalid("The model reads one source; instructions cannot be read (chat = strict).", "instructions")
    settings = only_set({"max_new_tokens": body.max_output_tokens})
    request = Request(
        source=source,
        settings=deterministic_or_sampled(settings, temperature=body.temperature, top_p=body.top_p),
        prefix=prefix,
        cut=body.truncation != "disabled",
    )
    return Call(model=body.model, requests=[request])


def write(answer: Answer, *, id: str, created: int, model: str, body: ResponseBody) -> dict[str, Any]:
    """Return the body of an answer."""
    result = answer.results[0]
    is_cut = result.finish == "length"
    return {
        **_response(id, created, model, body),
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": [_message(id, result.continuation, "incomplete" if is_cut else "completed")],
        "usage": {
            "input_tokens": answer.source_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer.num_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.source_tokens + answer.num_tokens,
        },
        **notes([answer]),
    }


def _response(id: str, created: int, model: str, body: ResponseBody) -> dict[str, Any]:
    return {
        "id": f"resp_{id}",
        "object": "response",
        "created_at": created,
        "model": model,
        "status": "in_progress",
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "truncation": body.truncation or "auto",
        "metadata": body.metadata or {},
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "usage": None,
    }


def _message(id: str, text: str, status: str) -> dict[str, Any]:
    content = [_part(text)] if status != "in_progress" else []
    return {"type": "message", "id": f"msg_{id}", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class Stream:
    """The events of a streamed answer, each with its number."""

    def __init__(self, *, id: str, created: int, model: str, body: ResponseBody) -> None:
        self._id, self._created, self._model, self._body = id, created, model, body
        self._number = 0
        self._text = ""

    def begin(self) -> list[dict[str, Any]]:
        """Return the events before the first piece."""
        response = _response(self._id, self._created, self._model, self._body)
        item = _message(self._id, "", "in_progress")
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
            self._event("response.output_item.added", output_index=0, item=item),
            self._place("response.content_part.added", part=_part("")),
        ]

    def piece(self, source: int, piece: Piece) -> list[dict[str, Any]]:
        """Return the events of a piece."""
        if piece.row or not piece.text:
            return []
        self._text += piece.text
        return [self._place("response.output_text.delta", delta=piece.text, logprobs=[])]

    def answer(self, source: int, answer: Answer) -> list[dict[str, Any]]:
        """Return the events at the end of the source."""
        whole = write(answer, id=self._id, created=self._created, model=self._model, body=self._body)
        text, item = answer.results[0].continuation, whole["output"][0]
        return [
            self._place("response.output_text.done", text=text, logprobs=[]),
            self._place("response.content_part.done", part=_part(text)),
            self._event("response.output_item.done", output_index=0, item=item),
            self._event(f"response.{whole['status']}", response=whole),
        ]

    def end(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """Return the events at the end."""
        return []

    def failed(self, refusal: Refusal) -> dict[str, Any]:
        """Return the event of an error."""
        response = _response(self._id, self._created, self._model, self._body)
        error = {"code": "server_error", "message": str(refusal)}
        return self._event("response.failed", response={**response, "status": "failed", "error": error})

    def _place(self, type: str, **more: Any) -> dict[str, Any]:
        return self._event(type, item_id=f"msg_{self._id}", output_index=0, content_index=0, **more)

    def _event(self, type: str, **more: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": type, "sequence_number": self._number - 1, **more}
