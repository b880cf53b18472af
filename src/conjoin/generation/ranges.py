"""The values that settings may have."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, cast

from conjoin.errors import GenerationError, shown
from conjoin.generation.modes import AnyOf, Phrase
from conjoin.generation.watermarking import WatermarkingConfig
from conjoin.limits import Range


def in_range(name: str, value: Any, expected: Range) -> Any:
    """Return the value.

    Raises:
        GenerationError: it is out of range.
    """
    if not expected.holds(value):
        raise GenerationError(f"{name} = {shown(value)}: expected {expected.description}.")
    return value


def items_of(value: Any) -> tuple[Any, ...] | None:
    """The items of a list or tuple; None where it is neither."""
    return tuple(cast(Sequence[Any], value)) if isinstance(value, list | tuple) else None


def bias_pairs(value: Any) -> tuple[Any, ...] | None:
    """The (ids, bias) pairs of either form of `sequence_bias`; None where it has neither."""
    return tuple(cast(Mapping[Any, Any], value).items()) if isinstance(value, Mapping) else items_of(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not _is_switch(value)


def _is_real(value: Any) -> bool:
    try:
        return isinstance(value, Real) and not _is_switch(value) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def whole(least: int) -> Range:
    """Whole numbers from `least` on."""
    return Range(lambda v: _is_int(v) and v >= least, f"a whole number of at least {least}", "whole", least)


def between(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> Range:
    """Numbers between two others, these included unless open."""

    def holds(v: Any) -> bool:
        return _is_real(v) and (v > low if open_low else v >= low) and (v < high if open_high else v <= high)

    interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    return Range(holds, f"a number in {interval}", "number", low, high)


def one_of(*options: Any) -> Range:
    """Only these values."""

    def holds(v: Any) -> bool:
        return any(v is option or (isinstance(option, str) and v == option) for option in options)

    kind = "switch" if set(options) == {True, False} else "choice"
    return Range(holds, " or ".join(map(repr, options)), kind, options=options)


def _each(value: Any, holds: Callable[[Any], bool]) -> bool:
    items = items_of(value)
    return bool(items) and all(holds(item) for item in items)


def _list_of(holds: Callable[[Any], bool], description: str) -> Range:
    return Range(lambda v: _each(v, holds), description)


def _is_ids(value: Any) -> bool:
    return _each(value, lambda v: _is_int(v) and v >= 0)


def _are_ints(value: Any) -> bool:
    items = items_of(value)
    return items is not None and all(map(_is_int, items))


def _is_phrase_or_choices(value: Any) -> bool:
    return _is_ids(value) or _each(value, _is_ids)


def _is_bias(value: Any) -> bool:
    def is_pair(pair: Any) -> bool:
        items = items_of(pair)
        return items is not None and len(items) == 2 and _is_ids(items[0]) and isinstance(items[1], Real)

    return _each(bias_pairs(value), is_pair)


def _is_decay(value: Any) -> bool:
    items = items_of(value)
    return items is not None and len(items) == 2 and _is_int(items[0]) and _is_real(items[1]) and items[1] > 0


def _is_strings(value: Any) -> bool:
    return bool(value) and (isinstance(value, str) or _each(value, lambda v: isinstance(v, str) and bool(v)))


def _is_watermark(value: Any) -> bool:
    config = WatermarkingConfig.of(value)
    return (
        config is not None
        and _is_real(config.greenlist_ratio)
        and 0 < config.greenlist_ratio < 1
        and _is_real(config.bias)
        and _is_int(config.hashing_key)
        and abs(config.hashing_key) < 2**63
        and config.seeding_scheme in ("lefthash", "selfhash")
        and _is_int(config.context_width)
        and config.context_width >= 1
    )


POSITIVE = Range(lambda v: _is_real(v) and v > 0, "a number above 0", "number", 0)
NOT_NEGATIVE = Range(lambda v: _is_real(v) and v >= 0, "a number of at least 0", "number", 0)
SWITCH = one_of(True, False)
SCHEDULE = one_of("constant", "heuristic", "heuristic_transient")
LENGTH_PENALTY = between(-50, 50)
"""A length to a higher power is no number any more."""
SHARE = between(0, 1)
SHARE_ABOVE_0 = between(0, 1, open_low=True)
SHARE_BELOW_1 = between(0, 1, open_high=True)
SHARE_INSIDE = between(0, 1, open_low=True, open_high=True)
ID = Range(_is_int, "an id", "whole", 0)
ID_OR_IDS = Range(lambda v: _is_int(v) or _are_ints(v), "an id or a list of them")
STRINGS = Range(_is_strings, "a non-empty string or a list of them")
DECAY = Range(_is_decay, "(start, factor): a whole number and a number above 0")
BAD_WORDS = _list_of(_is_ids, "a list of lists of ids, none of them empty")
PHRASES = _list_of(_is_phrase_or_choices, "a list of lists of ids (or of lists of such choices), none of them empty")
CONSTRAINTS = _list_of(lambda v: isinstance(v, Phrase | AnyOf), "a list of conjoin.generation.Phrase and AnyOf")
BIASES = Range(_is_bias, "{(id, ...): bias} or [[[id, ...], bias], ...], not empty")
WATERMARK = Range(
    _is_watermark,
    "a WatermarkingConfig: greenlist_ratio in (0, 1), bias, hashing_key, seeding_scheme 'lefthash' or 'selfhash', "
    "context_width of at least 1 (SynthID is not supported)",
)
