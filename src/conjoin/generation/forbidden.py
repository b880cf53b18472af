"""Tokens that settings forbid."""

from collections.abc import Iterable
from typing import Any

from conjoin.errors import GenerationError
from conjoin.generation.facts import Lengths
from conjoin.generation.setting import ProcessorSpec

FORBIDDEN = -5.0e8
"""A token with this score or less is forbidden. Masks are -inf, -1e9 or a dtype's least number; log-probabilities, even
of a long row, and biases that somebody means as such stay far above."""

_SHOWN_IDS = 8


def can_forbid(spec: ProcessorSpec, length: int) -> bool:
    """True if a processor forbids tokens, or may do so, behind rows of this length."""
    match spec.name, spec.arguments:
        case "min_length", (shortest, _):
            return length < shortest
        case "min_new_tokens", (count, prompt, _):
            return length < prompt + count
        case "forced_bos_token_id", _:
            return length == 1
        case "forced_eos_token_id", (_, longest):
            return length == longest - 1
        case "begin_suppress_tokens", (_, begin):
            return length == begin
        case "sequence_bias", (biases,):
            return any(bias <= FORBIDDEN for _, bias in biases)
        case _:
            return spec.name in _ALWAYS


_ALWAYS = (
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "prefix_allowed_tokens_fn",
    "suppress_tokens",
)


def described(spec: ProcessorSpec) -> str:
    """Return the setting that asks for a processor, with its value where that is short."""
    if spec.name in ("sequence_bias", "bad_words_ids", "prefix_allowed_tokens_fn"):
        return spec.name
    value = spec.arguments[0]
    return f"{spec.name} = {_shown(value) if isinstance(value, tuple) else value}"


def _shown(ids: Any) -> str:
    if len(ids) == 1:
        return str(ids[0])
    return str([*ids]) if len(ids) <= _SHOWN_IDS else f"{len(ids)} ids"


def check_first_token(plan: Iterable[ProcessorSpec], lengths: Lengths, eos: tuple[int, ...], vocab_size: int) -> None:
    """Refuse settings that leave no first token, or contradict each other about it.

    Raises:
        GenerationError: naming them.
    """
    if lengths.longest == lengths.prompt:
        return
    left: set[int] | range = range(vocab_size)
    gone, names, least = set[int](), list[str](), ""
    for spec in plan:
        if not can_forbid(spec, lengths.prompt):
            continue
        name = spec.name
        if name in ("min_length", "min_new_tokens"):
            least = name = described(spec)
        if spec.name == "forced_bos_token_id" and spec.arguments[0] in eos and least:
            raise GenerationError(
                f"{described(spec)} ends every result, but {least} forbids that.", hint="leave one of them out."
            )
        if spec.name in ("forced_bos_token_id", "forced_eos_token_id"):  # overrules what ran before it
            left, gone, names = _ids(spec), set[int](), ["what is forced"]
        elif new := {token for token in _ids(spec) if token in left and token not in gone}:
            gone |= new
            names.append(name)
    if len(left) == len(gone):
        raise GenerationError(
            f"{' and '.join(names)} leave{'s' if len(names) == 1 else ''} no first token: every one of "
            f"{vocab_size} is forbidden.",
            hint=f"loosen {' or '.join(name.split(' = ')[0] for name in names)}.",
        )


def _ids(spec: ProcessorSpec) -> set[int]:
    """Return the ids that a processor forbids or forces at the first step, as far as its arguments tell."""
    match spec.name, spec.arguments:
        case "sequence_bias", (biases,):
            return {run[0] for run, bias in biases if len(run) == 1 and bias <= FORBIDDEN}
        case "bad_words_ids", (runs,):
            return {run[0] for run in runs if len(run) == 1}
        case "min_length" | "min_new_tokens", (*_, eos):
            return {*eos}
        case "forced_bos_token_id", (token,):
            return {token}
        case "suppress_tokens" | "begin_suppress_tokens" | "forced_eos_token_id", (tokens, *_):
            return {*tokens}
        case _:
            return set()
