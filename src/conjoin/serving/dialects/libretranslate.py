"""LibreTranslate: POST /translate, /detect, GET /languages and /frontend/settings; for pairs of `--translate`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from conjoin.serving.dialects.call import Body, Call
from conjoin.serving.refusal import Refusal, invalid
from conjoin.serving.request import Answer, Request

Pairs = Mapping[tuple[str, str], str]
"""Source and target language -> name of the model."""
AUTO = "auto"


class TranslateBody(Body):
    """Body of POST /translate, as JSON or as a form."""

    q: Annotated[str | list[str], Field(description="text, or texts")]
    source: Annotated[str, Field(description="code of a language, or auto where only one is served")]
    target: str
    format: Literal["text"] | None = None
    alternatives: Annotated[int | None, Field(ge=0, description="further results of a beam search")] = None
    api_key: str | None = None


class DetectBody(Body):
    """Body of POST /detect."""

    q: str | list[str]
    api_key: str | None = None


def read(body: TranslateBody, pairs: Pairs) -> Call:
    """Return the requests of a body.

    Raises:
        Refusal: there is no model for these languages.
    """
    source = _source(body, pairs)
    name = pairs.get((source, body.target))
    if name is None:
        served = ", ".join(sorted(f"{a}:{b}" for a, b in pairs))
        raise invalid(f"{source} to {body.target} is not served; expected one of {served}.", "target")
    texts = [body.q] if isinstance(body.q, str) else body.q
    if not texts:
        raise invalid("q is an empty list; expected a text or texts.", "q")
    count = 1 + (body.alternatives or 0)
    settings = {"num_beams": max(4, count), "num_return_sequences": count} if count > 1 else {}
    requests = [Request(source=text, settings=settings, languages=(source, body.target)) for text in texts]
    return Call(model=name, requests=requests, is_list=not isinstance(body.q, str))


def _source(body: TranslateBody, pairs: Pairs) -> str:
    if body.source != AUTO:
        return body.source
    sources = {source for source, _ in pairs}
    if len(sources) != 1:
        raise invalid("Languages are not detected, and several are served; expected the source's code.", "source")
    return next(iter(sources))


def write(answers: Sequence[Answer], body: TranslateBody, pairs: Pairs) -> dict[str, Any]:
    """Return the body of an answer."""
    texts = [answer.results[0].text for answer in answers]
    others = [[result.text for result in answer.results[1:]] for answer in answers]
    is_list = not isinstance(body.q, str)
    told: dict[str, Any] = {"translatedText": texts if is_list else texts[0]}
    if body.alternatives:
        told["alternatives"] = others if is_list else others[0]
    if body.source == AUTO:
        found = {"confidence": 0, "language": _source(body, pairs)}
        told["detectedLanguage"] = [found] * len(texts) if is_list else found
    if any(answer.was_cut for answer in answers):
        told["sourceWasCut"] = [answer.was_cut for answer in answers] if is_list else True
    return told


def detect(pairs: Pairs) -> list[dict[str, Any]]:
    """Return the only source language that is served, with confidence 0: nothing is detected.

    Raises:
        Refusal: several are served.
    """
    sources = {source for source, _ in pairs}
    if len(sources) != 1:
        raise invalid("Languages are not detected, and several are served.", "q")
    return [{"confidence": 0, "language": next(iter(sources))}]


def languages(pairs: Pairs) -> list[dict[str, Any]]:
    """Return the languages and what each is translated to."""
    codes = sorted({code for pair in pairs for code in pair})
    return [
        {"code": code, "name": code, "targets": sorted(target for source, target in pairs if source == code)}
        for code in codes
    ]


def frontend_settings(pairs: Pairs, *, characters: int, timeout_s: float, needs_key: bool) -> dict[str, Any]:
    """Return what LibreTranslate's page and its clients ask for first."""
    source, target = min(pairs)
    return {
        "charLimit": characters,
        "frontendTimeout": 500,
        "apiKeys": needs_key,
        "keyRequired": needs_key,
        "suggestions": False,
        "filesTranslation": False,
        "supportedFilesFormat": [],
        "requestTimeout": timeout_s,
        "language": {"source": {"code": source, "name": source}, "target": {"code": target, "name": target}},
    }


def error_body(refusal: Refusal) -> dict[str, Any]:
    """Return the body of an error."""
    return {"error": str(refusal)}
