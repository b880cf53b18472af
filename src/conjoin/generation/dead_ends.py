"""Rows that have no token left, or whose scores are not numbers: found by the loops of every backend, told here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conjoin.errors import GenerationError, listing
from conjoin.generation import plan as p
from conjoin.generation.forbidden import FORBIDDEN
from conjoin.generation.plan import ProcessorSpec

_SHOWN_IDS = 8


@dataclass(frozen=True, slots=True)
class DeadEnd:
    """Where a source cannot go on.

    Args:
        length: Tokens of the row, prompt included.
        is_nan: Its scores are not numbers; else every token is forbidden.
    """

    source: int
    length: int
    is_nan: bool


def dead_end_error(ends: Sequence[DeadEnd], plan: Sequence[ProcessorSpec], *, prompt: int, custom: bool) -> Exception:
    """The error that tells of dead ends, with the settings that forbid tokens there.

    Args:
        prompt: Tokens that every row starts with.
        custom: Whether the caller gave processors.
    """
    lines = [_line(end, plan, prompt, custom) for end in ends]
    names = {name for end in ends if not end.is_nan for name in forbidding(plan, end.length, custom=custom)}
    hint = "check the weights for NaN, and processors of your own for what they divide by."
    if not all(end.is_nan for end in ends):
        hint = f"loosen {_joined(sorted(name.split(' = ')[0] for name in names))}." if names else "check the weights."
    return GenerationError(f"Generation cannot go on:\n{listing(lines)}", hint=hint)


def _line(end: DeadEnd, plan: Sequence[ProcessorSpec], prompt: int, custom: bool) -> str:
    where = f"source {end.source}, token {end.length - prompt + 1}"
    if end.is_nan:
        return f"{where}: the scores are not numbers (NaN)" + (", after logits_processor" if custom else "")
    names = forbidding(plan, end.length, custom=custom)
    who = f": {_joined(names)} forbid{'s' if len(names) == 1 else ''} every token" if names else ""
    return f"{where}: no token is left{who or ': the model itself gives none'}"


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def forbidding(plan: Iterable[ProcessorSpec], length: int, *, custom: bool) -> list[str]:
    """The settings, with their values, that forbid tokens behind rows of this length."""
    found = [name for spec in plan if (name := _forbids(spec, length)) is not None]
    return [*found, *(["logits_processor"] if custom else [])]


def _forbids(spec: ProcessorSpec, length: int) -> str | None:
    match spec:
        case p.MinLength(length=shortest) if length < shortest:
            return f"min_length = {shortest}"
        case p.MinNewTokens(prompt_length=prompt, count=count) if length < prompt + count:
            return f"min_new_tokens = {count}"
        case p.PrefixAllowed():
            return "prefix_allowed_tokens_fn"
        case p.ForcedBOS(token=token) if length == 1:
            return f"forced_bos_token_id = {token}"
        case p.ForcedEOS(max_length=longest, tokens=tokens) if length == longest - 1:
            return f"forced_eos_token_id = {_ids(tokens)}"
        case p.Suppress(tokens=tokens):
            return f"suppress_tokens = {_ids(tokens)}"
        case p.SuppressAtBegin(tokens=tokens, begin=begin) if length == begin:
            return f"begin_suppress_tokens = {_ids(tokens)}"
        case _:
            return _forbids_runs(spec)


def _forbids_runs(spec: ProcessorSpec) -> str | None:
    match spec:
        case p.SequenceBias(biases=biases) if any(bias <= FORBIDDEN for _, bias in biases):
            return "sequence_bias"
        case p.NoRepeatNGram(size=size):
            return f"no_repeat_ngram_size = {size}"
        case p.EncoderNoRepeatNGram(size=size):
            return f"encoder_no_repeat_ngram_size = {size}"
        case p.NoBadWords():
            return "bad_words_ids"
        case _:
            return None


def _ids(tokens: tuple[int, ...]) -> str:
    if len(tokens) == 1:
        return str(tokens[0])
    return str([*tokens]) if len(tokens) <= _SHOWN_IDS else f"{len(tokens)} ids"
