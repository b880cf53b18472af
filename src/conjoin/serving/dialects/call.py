"""What a dialect makes of a body of JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from conjoin.serving.refusal import invalid
from conjoin.serving.request import Request


class Body(BaseModel):
    """A body of JSON: unknown fields and values of another type are refused, not guessed at."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The sources of one HTTP request.

    Args:
        model: Name of the model; None for the only one, or the first.
        is_list: True if the body held a list, so that the answer is a list too.
    """

    model: str | None
    requests: list[Request]
    is_list: bool = False


def deterministic_or_sampled(
    settings: dict[str, Any], *, temperature: float | None, top_p: float | None, field: str = "temperature"
) -> dict[str, Any]:
    """Add what `temperature` and `top_p` mean to OpenAI's clients: 0 is deterministic, another value means sampling."""
    if temperature is not None and not 0 <= temperature <= 2:
        raise invalid(f"{field} = {temperature}; expected 0 to 2.", field)
    if temperature == 0:
        return {**settings, "do_sample": False}
    sampled: dict[str, Any] = {}
    if temperature is not None:
        sampled |= {"do_sample": True, "temperature": float(temperature)}
    if top_p is not None and top_p < 1:
        sampled |= {"do_sample": True, "top_p": float(top_p)}
    return {**settings, **sampled}


def only_set(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
