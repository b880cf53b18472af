"""The routes, one per endpoint of each dialect; what they say in JSON is written in `dialects`."""

import json
import time
import uuid
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Path, Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from conjoin.serving.answering import Answering
from conjoin.serving.dialects import chat, completions, generate, libretranslate, openai, responses
from conjoin.serving.dialects.answers import (
    EVENTS,
    ChatAnswer,
    CompletionAnswer,
    Detected,
    Frontend,
    Generated,
    Language,
    ModelCard,
    ModelList,
    ResponseAnswer,
    Translated,
    errors,
)
from conjoin.serving.edge import Keys
from conjoin.serving.refusal import Kind, Refusal
from conjoin.serving.refusals import of_validation
from conjoin.serving.served import Served
from conjoin.serving.settings import ServeSettings


def openai_routes(answering: Answering, settings: ServeSettings) -> APIRouter:
    """Return OpenAI's endpoints."""
    router, strict = APIRouter(tags=["OpenAI"], responses=errors("openai")), settings.chat == "strict"

    @router.post("/v1/completions", response_model=CompletionAnswer, responses=EVENTS)
    async def complete(http: Request, body: completions.CompletionBody) -> Response:
        """Generate targets; the prompt is the source, as text or as ids."""
        call = completions.read(body)
        if not body.stream:
            head = _head("cmpl")
            return await answering.whole(
                http, call, lambda answers, served: completions.write(answers, **head, model=served.name)
            )
        copies = call.requests[0].settings.get("num_return_sequences", 1)
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return await answering.stream(
            http,
            call,
            lambda served: completions.Stream(**_head("cmpl"), model=served.name, copies=copies, include_usage=usage),
        )

    @router.post("/v1/chat/completions", response_model=ChatAnswer, responses=EVENTS)
    async def chat_completions(http: Request, body: chat.ChatBody) -> Response:
        """Generate a target for the last user message; an assistant message behind it begins the target."""
        call = chat.read(body, strict=strict)
        if not body.stream:
            head = _head("chatcmpl")
            return await answering.whole(
                http, call, lambda answers, served: chat.write(answers, **head, model=served.name)
            )
        copies = call.requests[0].settings.get("num_return_sequences", 1)
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return await answering.stream(
            http,
            call,
            lambda served: chat.Stream(**_head("chatcmpl"), model=served.name, copies=copies, include_usage=usage),
        )

    @router.post("/models/{name:path}/v1/chat/completions", response_model=ChatAnswer, responses=EVENTS)
    async def named_chat_completions(http: Request, name: Annotated[str, Path()], body: chat.ChatBody) -> Response:
        """Answer as POST /v1/chat/completions does, by the model of this name: Hugging Face's clients post here."""
        return await chat_completions(http, body.model_copy(update={"model": name}))

    @router.post("/v1/responses", response_model=ResponseAnswer, responses=EVENTS)
    async def respond(http: Request, body: responses.ResponseBody) -> Response:
        """Generate a target for the input."""
        call = responses.read(body, strict=strict)
        id, created = uuid.uuid4().hex, int(time.time())
        if not body.stream:
            return await answering.whole(
                http,
                call,
                lambda answers, served: responses.write(
                    answers[0], id=id, created=created, model=served.name, body=body
                ),
            )
        return await answering.stream(
            http,
            call,
            lambda served: responses.Stream(id=id, created=created, model=served.name, body=body),
            is_named=True,
            is_marked=False,
        )

    @router.get("/v1/models", response_model=ModelList)
    async def models() -> Any:
        """List the models."""
        return {"object": "list", "data": [_card(answering, name) for name in answering.models.entries]}

    @router.get("/v1/models/{name:path}", response_model=ModelCard)
    async def model(name: Annotated[str, Path()]) -> Any:
        """Describe a model."""
        return _card(answering, answering.models.named(name).name)

    return router


def _card(answering: Answering, name: str) -> dict[str, Any]:
    served: Served | None = answering.models.entries[name].served
    if served is None:
        return openai.model_card(name, 0, {})
    card = served.card()
    limits = {key: card[key] for key in ("max_source_tokens", "max_target_tokens")}
    return openai.model_card(name, int(served.loaded), limits)


def _head(kind: str) -> dict[str, Any]:
    return {"id": f"{kind}-{uuid.uuid4().hex}", "created": int(time.time())}


def generate_routes(answering: Answering) -> APIRouter:
    """Return TGI's endpoints and the form of Hugging Face Inference, with our own words in both."""
    router = APIRouter(tags=["Generate"], responses=errors("generate"))

    @router.post("/generate", response_model=Generated | list[Generated])
    async def generate_one(http: Request, body: generate.GenerateBody) -> Response:
        """Generate targets; a list of inputs is answered by a list in the same order."""
        call = generate.read(body)
        return await answering.whole(
            http,
            call,
            lambda answers, served: _one_or_all(call, generate.write(answers, body, model=served.name)),
        )

    @router.post("/generate_stream", response_class=Response, responses=EVENTS)
    async def generate_stream(http: Request, body: generate.GenerateBody) -> Response:
        """Stream a target, an event per token."""
        return await _streamed(answering, http, body)

    @router.post("/", response_model=list[Generated], responses=EVENTS)
    async def tasks(http: Request, body: generate.TaskBody) -> Response:
        """Answer as Hugging Face Inference does for summarization, translation and text generation."""
        return await _task(answering, http, body)

    @router.post("/models/{name:path}", response_model=list[Generated], responses=EVENTS)
    async def named_tasks(http: Request, name: Annotated[str, Path()], body: generate.TaskBody) -> Response:
        """Answer as POST / does, by the model of this name."""
        return await _task(answering, http, body.model_copy(update={"model": name}))

    return router


async def _task(answering: Answering, http: Request, body: generate.TaskBody) -> Response:
    if body.stream:
        return await _streamed(answering, http, body)
    call = generate.read(body)
    return await answering.whole(
        http, call, lambda answers, served: generate.write_tasks(answers, body, model=served.name)
    )


async def _streamed(answering: Answering, http: Request, body: generate.GenerateBody) -> Response:
    call = generate.read(body)
    if call.is_list:
        raise Refusal(Kind.INVALID, "A stream follows one source; inputs is a list.", field="inputs")
    if body.parameters is not None and (body.parameters.best_of or 1) > 1:
        what = "A stream shows a result as it grows, and the best of several is known at their end."
        raise Refusal(Kind.INVALID, what, field="parameters.best_of")
    return await answering.stream(http, call, lambda served: generate.Stream(body, model=served.name), is_marked=False)


def _one_or_all(call: Any, answers: list[Any]) -> Any:
    return answers if call.is_list else answers[0]


def translate_routes(answering: Answering, settings: ServeSettings, keys: Keys) -> APIRouter:
    """Return LibreTranslate's endpoints."""
    router, pairs = APIRouter(tags=["LibreTranslate"], responses=errors("libretranslate")), settings.pairs

    def check_key(http: Request, key: str | None) -> None:
        if keys.are_needed and http.scope["state"].get("client", "").split(" ")[0] != "key":
            number = keys.number(key or "")
            if number is None:
                raise Refusal(Kind.UNAUTHORIZED, "A key is needed: api_key in the body, or a Bearer token.")
            http.scope["state"]["client"] = f"key {number}"

    @router.post("/translate", response_model=Translated, openapi_extra=_form_too(libretranslate.TranslateBody))
    async def translate(http: Request) -> Response:
        """Translate a text or texts."""
        body = await _json_or_form(http, libretranslate.TranslateBody)
        check_key(http, body.api_key)
        call = libretranslate.read(body, pairs)
        return await answering.whole(http, call, lambda answers, _: libretranslate.write(answers, body, pairs))

    @router.post("/detect", response_model=list[Detected], openapi_extra=_form_too(libretranslate.DetectBody))
    async def detect(http: Request) -> Any:
        """Return the only source language, with confidence 0."""
        body = await _json_or_form(http, libretranslate.DetectBody)
        check_key(http, body.api_key)
        return libretranslate.detect(pairs)

    @router.get("/languages", response_model=list[Language])
    async def languages() -> Any:
        """List the languages."""
        return libretranslate.languages(pairs)

    @router.get("/frontend/settings", response_model=Frontend)
    async def frontend() -> Any:
        """Return what clients ask for first."""
        return libretranslate.frontend_settings(
            pairs,
            characters=settings.max_queue_characters,
            timeout_s=settings.timeout,
            needs_key=keys.are_needed,
        )

    return router


async def _json_or_form(http: Request, kind: Any) -> Any:
    media = http.headers.get("content-type", "").split(";")[0].strip().lower()
    try:
        raw = await http.body()
    except ClientDisconnect:
        raise Refusal(Kind.INVALID, "The body ended before it was whole.", field="body") from None
    try:
        if media == "application/x-www-form-urlencoded":
            fields = parse_qs(raw.decode(), keep_blank_values=True)
            values: Any = {name: found[0] if len(found) == 1 else found for name, found in fields.items()}
            if isinstance(values.get("alternatives"), str) and values["alternatives"].isdigit():
                values["alternatives"] = int(values["alternatives"])
        else:
            values = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refusal(Kind.INVALID, f"The body is neither JSON nor a form: {error}.", field="body") from None
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise of_validation(error.errors()) from None


def _form_too(kind: Any) -> dict[str, Any]:
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    media = ("application/json", "application/x-www-form-urlencoded")
    return {"requestBody": {"required": True, "content": {name: {"schema": schema} for name in media}}}
