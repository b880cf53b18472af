"""Refusals as HTTP responses, each in the form of the dialect that was asked in."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from conjoin.serving.dialects import generate, libretranslate, openai
from conjoin.serving.refusal import Kind, Refusal

_OPENAI = re.compile(r"(/models/.+)?/v1/")
_TGI = ("/generate", "/generate_stream")
_LIBRE = ("/translate", "/detect", "/languages", "/frontend/settings")


def refusal_response(path: str, refusal: Refusal) -> Response:
    """Return the response that says why a request is not answered."""
    status = refusal.kind.status
    if path in _TGI and refusal.kind is Kind.INVALID:
        status = Kind.UNPROCESSABLE.status
    headers: dict[str, str] = {}
    if refusal.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(refusal.retry_after_s))
    if refusal.kind is Kind.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body_of(path, refusal), status, headers=headers)


def body_of(path: str, refusal: Refusal) -> dict[str, Any]:
    """Return the body of a refusal."""
    if _OPENAI.match(path):
        return openai.error_body(refusal)
    if path in _LIBRE:
        return libretranslate.error_body(refusal)
    return generate.error_body(refusal)


def of_validation(problems: Sequence[Any]) -> Refusal:
    """Return the refusal of a body that pydantic did not accept; it names every field that is wrong."""
    told: dict[str, str] = {}
    unknown: list[str] = []
    for problem in problems:
        place = [part for part in problem["loc"] if part not in ("body", "query", "path")]
        field = ".".join(str(part) for part in place if not _is_branch(part))
        if problem["type"] == "extra_forbidden":
            unknown.append(field)
            told[field] = "unknown field"
        elif problem["type"] == "json_invalid":
            told["body"] = f"no JSON: {problem.get('ctx', {}).get('error', problem['msg'])}"
        else:
            told.setdefault(field or "body", f"{problem['msg']}{_given(problem.get('input'))}")
    lines = "; ".join(f"{field}: {text}" for field, text in list(told.items())[:20])
    return Refusal(Kind.INVALID, f"{lines}.", field=next(iter(told), None), unknown=tuple(unknown))


def _is_branch(part: Any) -> bool:
    """True for what pydantic adds to a place to name a branch of a union, as in list[str]."""
    return isinstance(part, str) and (
        part in ("str", "int", "float", "bool", "none", "dict", "AttentionChoice")
        or part.startswith(("list[", "dict[", "literal[", "constrained-", "function-", "nullable"))
    )


def _given(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return ""
    return f", got {text if len(text) <= 60 else text[:60] + ' ...'}"
