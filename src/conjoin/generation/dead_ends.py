"""Rows that have no token left, or whose scores are not numbers: found by the loops of every backend, told here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conjoin.errors import GenerationError, listing
from conjoin.generation.forbidden import can_forbid, described
from conjoin.generation.setting import ProcessorSpec


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
    """Return the settings, with their values, that forbid tokens behind rows of this length."""
    names = [described(spec) for spec in plan if can_forbid(spec, length)]
    return [*names, *(["logits_processor"] if custom else [])]
