"""POST /generate, /generate_stream and /: TGI's form, Hugging Face Inference's, and our own superset of both.

Our own words: a list of inputs, every setting of `generate`, `target_prefix`, `attention`, `priority`, `timeout`.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from conjoin.serving.dialects.call import Body, Call
from conjoin.serving.dialects.parameters import GenerateFields, settings_of
from conjoin.serving.refusal import Kind, Refusal, invalid
from conjoin.serving.request import Answer, Attention, Piece, Request, Result, Token

_ERROR_TYPES = {
    Kind.OVERLOADED: "overloaded",
    Kind.UNAVAILABLE: "overloaded",
    Kind.UNPROCESSABLE: "generation",
    Kind.TIMEOUT: "incomplete_generation",
    Kind.INTERNAL: "generation",
}
_WARPERS = ("temperature", "top_k", "top_p", "typical_p")


class AttentionChoice(Body):
    """Which cross-attention is told; the mean over what is left out."""

    layer: int | None = None
    head: int | None = None


class Parameters(GenerateFields):  # pyright: ignore[reportGeneralTypeIssues]
    """Parameters of a generate request: TGI's, those of Hugging Face's tasks, and every setting of `generate`."""

    best_of: Annotated[int | None, Field(ge=1, description="sample so many, and return the likeliest")] = None
    stop: Annotated[list[str] | None, Field(description="the text is cut before the first of these")] = None
    stop_sequences: Annotated[list[str] | None, Field(description="older name of stop")] = None
    truncate: Annotated[int | None, Field(ge=1, description="tokens of the source that are read")] = None
    truncation: Annotated[
        Literal["do_not_truncate", "longest_first", "only_first", "only_second"] | bool | None,
        Field(description="do_not_truncate or false refuses a source that is too long"),
    ] = None
    details: Annotated[bool | None, Field(description="tell the tokens and their log-probabilities")] = None
    top_n_tokens: Annotated[int | None, Field(ge=0, description="likeliest tokens to tell at each place")] = None
    seed: int | None = None
    target_prefix: Annotated[
        str | list[int] | None, Field(description="how the target begins: text, or ids of the target tokenizer")
    ] = None
    attention: Annotated[
        bool | AttentionChoice | None, Field(description="tell the cross-attention of every token; with details")
    ] = None
    guess: Annotated[
        bool | None, Field(description="in streams of beam search: tell how the best hypothesis goes on at present")
    ] = None
    priority: Literal["interactive", "bulk"] | None = None
    timeout: Annotated[float | None, Field(gt=0, description="seconds until the request is given up")] = None
    src_lang: str | None = None
    tgt_lang: str | None = None
    clean_up_tokenization_spaces: Annotated[bool | None, Field(description="as the tokenizer says, if missing")] = None
    generate_parameters: Annotated[
        GenerateFields | None,  # pyright: ignore[reportInvalidTypeForm]
        Field(description="settings of generate; those beside it win"),
    ] = None
    return_full_text: Literal[False] | None = None
    decoder_input_details: Literal[False] | None = None
    watermark: Literal[False] | None = None
    grammar: None = None
    adapter_id: None = None
    frequency_penalty: Annotated[float | None, Field(ge=0, le=0, description="only 0")] = None


class GenerateBody(Body):
    """Body of POST /generate and /generate_stream."""

    inputs: Annotated[
        str | list[str] | list[list[int]],
        Field(description="source text, or a list of texts or of ids, which is answered by a list in the same order"),
    ]
    parameters: Parameters | None = None
    model: Annotated[str | None, Field(description="name of a model, where several are served")] = None


class TaskBody(GenerateBody):
    """Body of POST /: the form that `InferenceClient` posts."""

    stream: bool | None = None
    options: Annotated[dict[str, Any] | None, Field(description="of the hosted API; without effect")] = None


def read(body: GenerateBody) -> Call:
    """Return the requests of a body.

    Raises:
        Refusal: parameters contradict each other.
    """
    parameters = body.parameters or Parameters()  # pyright: ignore[reportCallIssue]
    sources = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    if not sources:
        raise invalid("inputs is an empty list; expected a text or texts.", "inputs")
    settings = _settings(parameters)
    wants_tokens = bool(parameters.details or parameters.top_n_tokens or (parameters.best_of or 1) > 1)
    prefix = parameters.target_prefix or ""
    requests = [
        Request(
            source=source if isinstance(source, str) else tuple(source),
            settings=settings,
            prefix=prefix if isinstance(prefix, str) else tuple(prefix),
            stop=(*(parameters.stop or ()), *(parameters.stop_sequences or ())),
            seed=None if parameters.seed is None else parameters.seed + index,
            top=(parameters.top_n_tokens or 0) if wants_tokens else None,
            attention=_attention(parameters.attention),
            priority=parameters.priority or "interactive",
            cut=parameters.truncation not in (False, "do_not_truncate"),
            max_source_tokens=parameters.truncate,
            timeout_s=parameters.timeout,
            languages=(parameters.src_lang, parameters.tgt_lang),
            clean_up_spaces=parameters.clean_up_tokenization_spaces,
        )
        for index, source in enumerate(sources)
    ]
    return Call(model=body.model, requests=requests, is_list=not isinstance(body.inputs, str))


def _settings(parameters: Parameters) -> dict[str, Any]:
    more = cast("Body | None", parameters.generate_parameters)
    settings = {**({} if more is None else settings_of(more)), **settings_of(parameters)}
    is_open = settings.get("do_sample") is None and "penalty_alpha" not in settings
    if is_open and any(settings.get(name) is not None for name in _WARPERS):  # as TGI understands them
        settings["do_sample"] = True
    if (best_of := parameters.best_of or 1) > 1:
        if not settings.get("do_sample"):
            raise invalid("best_of chooses among samples; expected do_sample = true beside it.", "parameters.best_of")
        if settings.get("num_return_sequences") not in (None, 1):
            raise invalid("best_of returns one result; leave num_return_sequences out.", "parameters.best_of")
        settings["num_return_sequences"] = best_of
    return settings


def _attention(wanted: bool | AttentionChoice | None) -> Attention | None:
    if not wanted:
        return None
    return Attention() if wanted is True else Attention(layer=wanted.layer, head=wanted.head)


def write(answers: Sequence[Answer], body: GenerateBody, *, model: str) -> list[dict[str, Any]]:
    """Return an object per source, in order."""
    return [_answer(answer, body, model) for answer in answers]


def write_tasks(answers: Sequence[Answer], body: GenerateBody, *, model: str) -> list[dict[str, Any]]:
    """Return an object per source that holds its text under the name of every task: clients read the one they know."""
    objects = write(answers, body, model=model)
    return [
        {**each, "summary_text": each["generated_text"], "translation_text": each["generated_text"]} for each in objects
    ]


def _answer(answer: Answer, body: GenerateBody, model: str) -> dict[str, Any]:
    parameters = body.parameters or Parameters()  # pyright: ignore[reportCallIssue]
    results = list(answer.results)
    if (parameters.best_of or 1) > 1:
        results.sort(key=lambda result: -sum(token.logprob or 0.0 for token in result.tokens or ()))
    best = results[0]
    told: dict[str, Any] = {"generated_text": best.text}
    if parameters.details or parameters.attention:
        told["details"] = _details(answer, best, model)
        if (parameters.best_of or 1) > 1:
            told["details"]["best_of_sequences"] = [
                {"generated_text": each.text, **_result(answer, each)} for each in results[1:]
            ]
    if len(results) > 1 and (parameters.best_of or 1) == 1:
        told["sequences"] = [{"generated_text": each.text, **_result(answer, each)} for each in results]
    if best.score is not None:
        told["score"] = best.score
    told["finish_reason"] = best.finish
    if answer.was_cut:
        told["source_was_cut"] = True
    if answer.warnings:
        told["warnings"] = list(answer.warnings)
    return told


def _details(answer: Answer, best: Result, model: str) -> dict[str, Any]:
    details = _result(answer, best)
    prefix = [{"id": token.id, "text": token.text, "logprob": None} for token in answer.prefix]
    details |= {
        "prefill": prefix,
        "input_length": answer.source_tokens,
        "model": model,
        "source_was_cut": answer.was_cut,
    }
    details |= {"queue_s": answer.queue_s, "first_token_s": answer.first_s, "total_s": answer.total_s}
    if answer.source_texts is not None:
        details["source_tokens"] = list(answer.source_texts)
    if answer.source_places is not None:
        details["source_offsets"] = [list(place) for place in answer.source_places]
    return details


def _result(answer: Answer, result: Result) -> dict[str, Any]:
    told: dict[str, Any] = {
        "finish_reason": result.finish,
        "generated_tokens": result.num_tokens,
        "seed": answer.seed,
    }
    if result.score is not None:
        told["score"] = result.score
    if result.tokens is not None:
        told["tokens"] = [_token(token) for token in result.tokens]
        if any(token.top for token in result.tokens):
            told["top_tokens"] = [_top(token) for token in result.tokens]
    return told


def _token(token: Token) -> dict[str, Any]:
    told = {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.special}
    return told if token.attention is None else {**told, "attention": [round(each, 4) for each in token.attention]}


def _top(token: Token) -> list[dict[str, Any]]:
    return [asdict(each) for each in token.top]


class Stream:
    """The events of a streamed answer: one per token, the last one with the whole text."""

    def __init__(self, body: GenerateBody, *, model: str) -> None:
        self._body, self._model = body, model
        self._guess = bool(body.parameters and body.parameters.guess)
        self._index = 0
        self._held: dict[str, Any] | None = None
        self._text = ""

    def begin(self) -> list[dict[str, Any]]:
        """Return the events before the first piece."""
        return []

    def piece(self, source: int, piece: Piece) -> list[dict[str, Any]]:
        """Return the events of a piece; the last token is held back, for it may be the last of all."""
        events: list[dict[str, Any]] = []
        if piece.row:
            return events
        self._text += piece.text
        for token in piece.tokens:
            if self._held is not None:
                events.append(self._held)
            self._index += 1
            told = {**_token(token), "text": self._text}
            self._held = {"index": self._index, "token": told, "generated_text": None, "details": None}
            if token.top:
                self._held["top_tokens"] = _top(token)
            self._text = ""
        if self._guess:
            events.append({"index": self._index, "token": None, "text": piece.text, "guess": piece.guess})
        return events

    def answer(self, source: int, answer: Answer) -> list[dict[str, Any]]:
        """Return the events at the end."""
        whole = _answer(answer, self._body, self._model)
        details = {
            "finish_reason": answer.results[0].finish,
            "generated_tokens": answer.results[0].num_tokens,
            "input_length": answer.source_tokens,
            "seed": answer.seed,
            **whole.pop("details", {}),
        }
        empty = {"id": 0, "text": "", "logprob": None, "special": True}
        last = self._held or {"index": self._index + 1, "token": empty}
        last["token"]["text"] += self._text
        return [{**last, **whole, "details": details}]

    def end(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """Return nothing: the last token was the end."""
        return []


def error_body(refusal: Refusal) -> dict[str, Any]:
    """Return the body of an error.

    `InferenceClient` drops parameters and tries again where a message has this form of transformers' own.
    """
    names = [name.rsplit(".", 1)[-1] for name in refusal.unknown if name.startswith("parameters.")]
    message = str(refusal)
    if names:
        message = f"The following `model_kwargs` are not used by the model: {names!r}. {message}"
    told = {"error": message, "error_type": _ERROR_TYPES.get(refusal.kind, "validation")}
    field = None if refusal.field is None else re.sub(r"^parameters\.", "", refusal.field)
    return told if field is None else {**told, "field": field}
