"""Ids of tokens in a model's settings: those that must keep their rows, and all of them under new numbers."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from conjoin.families import is_id_field

_FILTERED = ("suppress_tokens", "begin_suppress_tokens")
"""Lists of ids that are never written: one without a row is never written anyway."""
_SEQUENCES = ("bad_words_ids",)
"""Lists of sequences that are never written: likewise for a sequence with such an id."""
_HALVES = ("encoder", "decoder", "text_config")
"""Configs within a config."""
_FORCED = ("force_words_ids", "forced_decoder_ids")
"""Nested lists of ids that must be written."""


def ids_in_use(settings: Mapping[str, Any]) -> set[int]:
    """Return the ids in the settings of a model without which it would not work as it does."""
    found: set[int] = set()
    for name, value in settings.items():
        if is_id_field(name) or name == "force_words_ids":
            found |= set(_numbers(value))
        elif name == "forced_decoder_ids":
            found |= {index for _, index in cast("list[tuple[int, int]]", value or [])}
        elif name in _HALVES and isinstance(value, dict):
            found |= ids_in_use(cast(dict[str, Any], value))
        elif name == "task_specific_params" and isinstance(value, dict):
            for task in cast(dict[str, Any], value).values():
                found |= ids_in_use(cast(dict[str, Any], task)) if isinstance(task, dict) else set()
    return found


def with_new_ids(settings: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """Return a model's settings with the new numbers of ids; rules about ids without a row are left out.

    Args:
        new: Old id -> new id, of those that have one.
    """
    return {name: _renumbered(name, value, new) for name, value in settings.items()}


def _renumbered(name: str, value: Any, new: Mapping[int, int]) -> Any:
    if value is None:
        return None
    if name.endswith("_token_index"):  # of an image, whose token may have no row
        return new.get(value, value)
    if name in _HALVES and isinstance(value, dict):
        return with_new_ids(cast(dict[str, Any], value), new)
    if name == "task_specific_params" and isinstance(value, dict):
        tasks = cast(dict[str, Any], value)
        return {
            task: with_new_ids(cast(dict[str, Any], own), new) if isinstance(own, dict) else own
            for task, own in tasks.items()
        }
    if name == "sequence_bias" and isinstance(value, list):
        biases: list[tuple[list[int], float]] = [tuple(each) for each in cast(list[Any], value)]
        return [[_mapped(ids, new), bias] for ids, bias in biases if set(ids) <= new.keys()] or None
    if name in _SEQUENCES:
        return [_mapped(ids, new) for ids in cast("list[list[int]]", value) if set(ids) <= new.keys()] or None
    if name == "forced_decoder_ids":
        return [[place, _mapped(index, new)] for place, index in cast("list[list[Any]]", value)]
    if name in _FILTERED or is_id_field(name) or name in _FORCED:
        return _mapped(value, new)
    return value


def _mapped(value: Any, new: Mapping[int, int]) -> Any:
    """Return an id, or nested lists of them, under new numbers; ids without one are left out."""
    if isinstance(value, list | tuple):
        return [_mapped(each, new) for each in cast("list[Any]", value) if not isinstance(each, int) or each in new]
    return new.get(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, list | tuple):
        for each in cast("list[Any]", value):
            yield from _numbers(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value
