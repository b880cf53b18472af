"""The values that each setting may have."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, cast

from conjoin.generation.config import WatermarkingConfig
from conjoin.generation.modes import AnyOf, Phrase
from conjoin.limits import Range


def items_of(value: Any) -> tuple[Any, ...] | None:
    """The items of a list or tuple; None where it is neither."""
    return tuple(cast(Sequence[Any], value)) if isinstance(value, list | tuple) else None


def bias_pairs(value: Any) -> tuple[Any, ...] | None:
    """The (ids, bias) pairs of either form of `sequence_bias`; None where it has neither."""
    return tuple(cast(Mapping[Any, Any], value).items()) if isinstance(value, Mapping) else items_of(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not _is_switch(value)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not _is_switch(value) and math.isfinite(value)


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _whole(least: int) -> Range:
    return Range(lambda v: _is_int(v) and v >= least, f"a whole number of at least {least}")


def _between(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> Range:
    def holds(v: Any) -> bool:
        return _is_real(v) and (v > low if open_low else v >= low) and (v < high if open_high else v <= high)

    return Range(holds, f"a number in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}")


def _one_of(*options: Any) -> Range:
    def holds(v: Any) -> bool:
        return any(v is option or (isinstance(option, str) and v == option) for option in options)

    return Range(holds, " or ".join(map(repr, options)))


def _each(value: Any, holds: Callable[[Any], bool]) -> bool:
    items = items_of(value)
    return bool(items) and all(holds(item) for item in items)


def _list_of(holds: Callable[[Any], bool], words: str) -> Range:
    return Range(lambda v: _each(v, holds), words)


def _is_ids(value: Any) -> bool:
    return _each(value, lambda v: _is_int(v) and v >= 0)


def _are_ints(value: Any) -> bool:
    items = items_of(value)
    return items is not None and all(map(_is_int, items))


def _is_word(value: Any) -> bool:
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
    made = WatermarkingConfig.of(value)
    return (
        made is not None
        and 0 < made.greenlist_ratio < 1
        and made.seeding_scheme in ("lefthash", "selfhash")
        and made.context_width >= 1
    )


_POSITIVE = Range(lambda v: _is_real(v) and v > 0, "a number above 0")
_SWITCH = _one_of(True, False)
RANGES: dict[str, Range] = {
    **dict.fromkeys(
        (
            "do_sample",
            "use_cache",
            "renormalize_logits",
            "remove_invalid_values",
            "output_attentions",
            "output_hidden_states",
            "output_scores",
            "output_logits",
            "return_dict_in_generate",
            "copy_speculation",
            "truncation",
        ),
        _SWITCH,
    ),
    **dict.fromkeys(
        (
            "max_length",
            "num_beams",
            "num_beam_groups",
            "num_return_sequences",
            "num_assistant_tokens",
            "prompt_lookup_num_tokens",
            "max_matching_ngram_size",
            "assistant_lookbehind",
            "target_lookbehind",
        ),
        _whole(1),
    ),
    **dict.fromkeys(
        (
            "max_new_tokens",
            "min_length",
            "min_new_tokens",
            "top_k",
            "no_repeat_ngram_size",
            "encoder_no_repeat_ngram_size",
        ),
        _whole(0),
    ),
    **dict.fromkeys(("temperature", "repetition_penalty", "encoder_repetition_penalty", "max_time"), _POSITIVE),
    **dict.fromkeys(("top_p", "typical_p", "top_h"), _between(0, 1, open_low=True)),
    **dict.fromkeys(("min_p", "penalty_alpha", "assistant_confidence_threshold"), _between(0, 1)),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), _between(0, 1, open_high=True)),
    "assistant_ensemble_weight": _between(0, 1, open_low=True, open_high=True),
    "length_penalty": _between(-50, 50),  # a length to a higher power is no number any more
    "diversity_penalty": Range(lambda v: _is_real(v) and v >= 0, "a number of at least 0"),
    "early_stopping": _one_of(True, False, "never"),
    "num_assistant_tokens_schedule": _one_of("constant", "heuristic", "heuristic_transient"),
    "stop_strings": Range(_is_strings, "a non-empty string or a list of them"),
    "exponential_decay_length_penalty": Range(_is_decay, "(start, factor): a whole number and a number above 0"),
    "forced_bos_token_id": Range(_is_int, "an id"),
    **dict.fromkeys(
        ("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"),
        Range(lambda v: _is_int(v) or _are_ints(v), "an id or a list of them"),
    ),
    "bad_words_ids": _list_of(_is_ids, "a list of lists of ids, none of them empty"),
    "force_words_ids": _list_of(_is_word, "a list of lists of ids (or of lists of such choices), none of them empty"),
    "constraints": _list_of(lambda v: isinstance(v, Phrase | AnyOf), "a list of conjoin.generation.Phrase and AnyOf"),
    "sequence_bias": Range(_is_bias, "{(id, ...): bias} or [[[id, ...], bias], ...], not empty"),
    "watermarking_config": Range(
        _is_watermark,
        "a WatermarkingConfig: greenlist_ratio in (0, 1), bias, hashing_key, seeding_scheme 'lefthash' or 'selfhash', "
        "context_width of at least 1 (SynthID is not supported)",
    ),
}
"""Setting -> its range. Ids are checked against the vocabulary apart."""
