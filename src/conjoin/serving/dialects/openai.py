"""What OpenAI's three endpoints share: sampling words, usage, errors, the list of models."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from conjoin.serving.dialects.call import Body, deterministic_or_sampled, only_set
from conjoin.serving.refusal import Kind, Refusal, invalid
from conjoin.serving.request import Answer, Finish

FINISH: Mapping[Finish, str] = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}
_TYPES = {
    Kind.UNAUTHORIZED: "authentication_error",
    Kind.NOT_FOUND: "not_found_error",
    Kind.OVERLOADED: "rate_limit_error",
    Kind.INTERNAL: "server_error",
    Kind.UNAVAILABLE: "server_error",
    Kind.TIMEOUT: "server_error",
}
_CODES = {
    Kind.UNAUTHORIZED: "invalid_api_key",
    Kind.TOO_LARGE: "context_length_exceeded",
    Kind.OVERLOADED: "rate_limit_exceeded",
    Kind.TIMEOUT: "timeout",
    Kind.UNAVAILABLE: "unavailable",
}


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class Ignored(Body):
    """Fields that say who asks, or where OpenAI keeps what; accepted, without effect here."""

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class Sampling(Ignored):
    """Fields of completions and chat completions that say how to decode."""

    model: str | None = None
    temperature: Annotated[
        float | None,
        Field(description="0: deterministic; above 0: sampling; missing: as the model's settings say"),
    ] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, description="below 1: sampling")] = None
    n: Annotated[int | None, Field(ge=1, description="results per source; without sampling: of a beam search")] = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[Literal[0] | float | None, Field(ge=0, le=0, description="only 0")] = None
    frequency_penalty: Annotated[Literal[0] | float | None, Field(ge=0, le=0, description="only 0")] = None
    logit_bias: Annotated[dict[str, float] | None, Field(max_length=0, description="only {}")] = None
    best_of: Annotated[int | None, Field(ge=1, description="beams of a beam search")] = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    early_stopping: bool | Literal["never"] | None = None
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: Annotated[int | None, Field(ge=0)] = None
    priority: Literal["interactive", "bulk"] | None = None
    timeout: Annotated[float | None, Field(gt=0, description="seconds")] = None

    def settings(self, max_tokens: int | None) -> dict[str, Any]:
        """Return settings of `generate`.

        Raises:
            Refusal: fields contradict each other.
        """
        plain = only_set(
            {
                "max_new_tokens": max_tokens,
                "min_new_tokens": self.min_tokens,
                "length_penalty": self.length_penalty,
                "repetition_penalty": self.repetition_penalty,
                "no_repeat_ngram_size": self.no_repeat_ngram_size,
                "early_stopping": self.early_stopping,
                "top_k": self.top_k,
                "min_p": self.min_p,
            }
        )
        settings = deterministic_or_sampled(plain, temperature=self.temperature, top_p=self.top_p)
        return {**settings, **self._results(bool(settings.get("do_sample")))}

    def _results(self, samples: bool) -> dict[str, Any]:
        n, best_of = self.n or 1, self.best_of
        if samples:
            if self.use_beam_search:
                raise invalid("use_beam_search needs temperature 0 and top_p 1.", "use_beam_search")
            if best_of is not None and best_of != n:
                raise invalid("best_of chooses among beams; with sampling expected n or nothing.", "best_of")
            return {"num_return_sequences": n, "num_beams": 1} if n > 1 else {}
        if best_of is not None and best_of < n:
            raise invalid(f"best_of = {best_of} is below n = {n}.", "best_of")
        if self.use_beam_search is False:
            if n > 1:
                raise invalid("n above 1 needs sampling or use_beam_search.", "n")
            return {"num_beams": 1}
        beams = best_of or (max(n, 4) if self.use_beam_search or n > 1 else None)
        return only_set({"num_beams": beams, "num_return_sequences": n if n > 1 else None})

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def usage(answers: Sequence[Answer]) -> dict[str, int]:
    """Return the tokens of sources and results."""
    sources, results = sum(each.source_tokens for each in answers), sum(each.num_tokens for each in answers)
    return {"prompt_tokens": sources, "completion_tokens": results, "total_tokens": sources + results}


def notes(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return what must not be kept silent: cut sources, settings without effect."""
    told: dict[str, Any] = {}
    if any(answer.was_cut for answer in answers):
        told["source_was_cut"] = [answer.was_cut for answer in answers]
    if warnings := list(dict.fromkeys(text for answer in answers for text in answer.warnings)):
        told["warnings"] = warnings
    return told


def error_body(refusal: Refusal) -> dict[str, Any]:
    """Return the body of an error."""
    code = (
        "model_not_found" if refusal.kind is Kind.NOT_FOUND and refusal.field == "model" else _CODES.get(refusal.kind)
    )
    if code is None and refusal.kind is Kind.INVALID:
        code = "unknown_parameter" if refusal.unknown else "invalid_value"
    return {
        "error": {
            "message": str(refusal),
            "type": _TYPES.get(refusal.kind, "invalid_request_error"),
            "param": refusal.field,
            "code": code,
        }
    }


def model_card(name: str, created: int, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model as /v1/models lists it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "conjoin", **limits}
