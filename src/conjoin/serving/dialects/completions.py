"""POST /v1/completions: the prompt is the source."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from conjoin.serving.dialects.call import Call
from conjoin.serving.dialects.openai import FINISH, Sampling, notes, usage
from conjoin.serving.refusal import invalid
from conjoin.serving.request import Answer, Piece, Request, Result, Token


class CompletionBody(Sampling):
    """Body of POST /v1/completions."""

    prompt: Annotated[
        str | list[str] | list[int] | list[list[int]],
        Field(description="source text, a list of them, or ids of the source tokenizer"),
    ]
    max_tokens: Annotated[int | None, Field(ge=0)] = None
    logprobs: Annotated[int | None, Field(ge=0, le=20, description="likeliest tokens to tell at each place")] = None
    suffix: None = None
    echo: Literal[False] | None = None


def read(body: CompletionBody) -> Call:
    """Return the requests of a body.

    Raises:
        Refusal: fields contradict each other, or there is no source.
    """
    sources = _sources(body.prompt)
    if not sources:
        raise invalid("prompt is empty; expected a text.", "prompt")
    settings = body.settings(body.max_tokens)
    requests = [
        Request(
            source=source,
            settings=settings,
            stop=body.stops,
            seed=body.seed if body.seed is None else body.seed + index,
            top=body.logprobs,
            priority=body.priority or "interactive",
            timeout_s=body.timeout,
        )
        for index, source in enumerate(sources)
    ]
    return Call(model=body.model, requests=requests, is_list=len(sources) > 1)


def _sources(prompt: Any) -> list[str | tuple[int, ...]]:
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [tuple(prompt)]
    return [each if isinstance(each, str) else tuple(each) for each in prompt]


def write(answers: Sequence[Answer], *, id: str, created: int, model: str) -> dict[str, Any]:
    """Return the body of an answer; choices of one source stand next to each other."""
    results = [result for answer in answers for result in answer.results]
    return {
        "id": id,
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": [_choice(index, result) for index, result in enumerate(results)],
        "usage": usage(answers),
        **notes(answers),
    }


def _choice(index: int, result: Result) -> dict[str, Any]:
    tokens = None if result.tokens is None else _logprobs(result.tokens, 0)
    choice = {"index": index, "text": result.continuation, "finish_reason": FINISH[result.finish], "logprobs": tokens}
    return choice if result.score is None else {**choice, "score": result.score}


def _logprobs(tokens: Sequence[Token], offset: int) -> dict[str, Any]:
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{each.text: each.logprob for each in token.top} for token in tokens],
        "text_offset": offsets,
    }


class Stream:
    """The events of a streamed answer.

    Args:
        copies: Results per source.
    """

    def __init__(self, *, id: str, created: int, model: str, copies: int, include_usage: bool) -> None:
        self._head = {"id": id, "object": "text_completion", "created": created, "model": model}
        self._copies, self._usage = copies, include_usage
        self._offsets: dict[int, int] = {}

    def begin(self) -> list[dict[str, Any]]:
        """Return the events before the first piece."""
        return []

    def piece(self, source: int, piece: Piece) -> list[dict[str, Any]]:
        """Return the events of a piece."""
        index = source * self._copies + piece.row
        scored = [token for token in piece.tokens if token.logprob is not None]
        if not (piece.text or scored):
            return []
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(len(token.text) for token in scored)
        logprobs = _logprobs(scored, offset) if scored else None
        return [self._event([{"index": index, "text": piece.text, "finish_reason": None, "logprobs": logprobs}])]

    def answer(self, source: int, answer: Answer) -> list[dict[str, Any]]:
        """Return the events at the end of a source."""
        choices = [
            {"index": source * self._copies + row, "text": "", "finish_reason": FINISH[result.finish], "logprobs": None}
            for row, result in enumerate(answer.results)
        ]
        return [{**self._event([choice]), **notes([answer])} for choice in choices]

    def end(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """Return the events at the end."""
        return [{**self._event([]), "usage": usage(answers)}] if self._usage else []

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "choices": choices}
