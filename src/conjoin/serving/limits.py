"""What one request may ask for, and how many may wait: refused before any work is done for them."""

from dataclasses import dataclass
from typing import Any

from conjoin.serving.refusal import Kind, Refusal, invalid
from conjoin.serving.request import Request

_PRIVATE = frozenset(
    {
        "return_dict_in_generate",
        "output_scores",
        "output_logits",
        "output_attentions",
        "output_hidden_states",
        "max_time",
        "stop_strings",
        "constraints",
        "cache_config",
        "truncation",
    }
)
"""Settings of `generate` that have another form here, or need Python objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a request.

    Args:
        inputs: Sources in one request.
        beams, results: Beams, and results, of each source.
        new_tokens: Tokens of a result.
        source_tokens: Tokens of a source; longer ones are cut or refused. None for the model's own limit.
        top: Likeliest tokens at each place.
        stops: Stop strings.
        timeout_s: Seconds from arrival to the end.
    """

    inputs: int = 128
    beams: int = 8
    results: int = 8
    new_tokens: int = 1024
    source_tokens: int | None = None
    top: int = 20
    stops: int = 16
    timeout_s: float = 60.0

    def check(self, request: Request) -> None:
        """Refuse a request that asks for too much.

        Raises:
            Refusal: with the field.
        """
        for field, name, most in (
            ("num_beams", "num_beams", self.beams),
            ("num_return_sequences", "num_return_sequences", self.results),
            ("max_new_tokens", "max_new_tokens", self.new_tokens),
            ("max_length", "max_length", self.new_tokens),
            ("min_new_tokens", "min_new_tokens", self.new_tokens),
            ("penalty_alpha", "top_k", 64 if request.settings.get("penalty_alpha") else None),
        ):
            value = request.settings.get(name)
            if most is not None and isinstance(value, int) and value > most:
                raise invalid(f"{name} = {value}; this server allows at most {most}.", field if name == field else name)
        if request.top is not None and request.top > self.top:
            raise invalid(f"{request.top} likeliest tokens; this server tells at most {self.top}.", "top_logprobs")
        if len(request.stop) > self.stops:
            raise invalid(f"{len(request.stop)} stop strings; this server takes at most {self.stops}.", "stop")
        if request.source in ("", ()):
            raise invalid("The source is empty; expected a text.", "inputs")
        for name in _PRIVATE.intersection(request.settings):
            raise invalid(f"{name} cannot be set over HTTP.", name)


def settable(names: Any) -> list[str]:
    """Return those of `generate`'s settings that a request may set."""
    return [name for name in names if name not in _PRIVATE]


class Gate:
    """Places in the queue of one model, reserved before any work is done for a request.

    Args:
        places: Sources that may wait or run together.
        size: Characters of all of them.
    """

    def __init__(self, places: int, size: int) -> None:
        self.places, self.size = places, size
        self.taken = 0
        self.taken_size = 0

    def enter(self, sources: int, size: int, retry_after_s: float) -> None:
        """Reserve places.

        Raises:
            Refusal: too few are left; try again later. Or there will never be so many.
        """
        if sources > self.places or size > self.size:
            raise Refusal(
                Kind.TOO_LARGE,
                f"{sources} sources of {size:,} characters in one request; this server queues at most "
                f"{self.places} sources of {self.size:,} characters.",
                hint="send fewer at a time.",
            )
        if self.taken + sources > self.places or self.taken_size + size > self.size:
            raise Refusal(
                Kind.OVERLOADED,
                f"The queue is full: {self.taken} of {self.places} places are taken.",
                retry_after_s=retry_after_s,
            )
        self.taken += sources
        self.taken_size += size

    def leave(self, sources: int, size: int) -> None:
        """Give places back."""
        self.taken -= sources
        self.taken_size -= size
