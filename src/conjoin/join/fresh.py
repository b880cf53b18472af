"""What no checkpoint had and nobody trained yet: kept on record in config.json until its numbers change."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from conjoin.configuration import EncoderDecoderConfig
from conjoin.families import PretrainedConfig
from conjoin.join.plan import Copied, JoinReport, Untrained, part_of

_SHOWN = 32
"""Numbers of each parameter that are remembered: an optimizer's step changes nearly all of them."""

Numbers = Callable[[str], tuple[np.ndarray, str]]
"""Canonical name -> the first numbers of a parameter as float32, and its dtype."""


def first_numbers(array: Any) -> Any:
    """The few numbers of a parameter that are remembered."""
    return array.reshape(-1)[:_SHOWN]


class FreshStart:
    """The fresh parameters of a joined model and what they started with.

    Args:
        names: Their canonical names; none for a model that is random altogether, of which there is nothing to tell.
    """

    def __init__(self, names: Iterable[str], read: Numbers) -> None:
        self._start = {name: read(name) for name in names}

    def untouched(self, read: Numbers) -> list[str]:
        """Names in those parts of the model where every fresh parameter is as it started."""
        moved = {part_of(name) for name, start in self._start.items() if _moved(start, read(name))}
        return [name for name in self._start if part_of(name) not in moved]


def _moved(start: tuple[np.ndarray, str], now: tuple[np.ndarray, str]) -> bool:
    """Whether numbers changed by more than another dtype's rounding."""
    (old, old_dtype), (new, new_dtype) = start, now
    if old.shape != new.shape:
        return True
    return not (np.array_equal(old, new) if old_dtype == new_dtype else np.allclose(old, new, rtol=2**-7, atol=1e-7))


def fresh_names(report: JoinReport) -> list[str]:
    """What is worth a record: nothing, where the model has no part that was trained."""
    return report.fresh if report.copied else []


def record(report: JoinReport, names: Iterable[str]) -> list[str]:
    """Names for config.json, a part's name in place of all that it has."""
    chosen = set(names)
    parts: dict[str, list[str]] = {}
    for name in report.origins:
        parts.setdefault(part_of(name), []).append(name)
    found: list[str] = []
    for part, members in parts.items():
        found += [part] if chosen.issuperset(members) else [name for name in members if name in chosen]
    return sorted(found)


def with_record(report: JoinReport, config: PretrainedConfig) -> JoinReport:
    """The report of a loaded model, in which what its config has on record is fresh."""
    known = set(config.fresh) if isinstance(config, EncoderDecoderConfig) else set[str]()
    origins = {
        name: Untrained(origin.offer, origin.match)
        if isinstance(origin, Copied) and known & {name, part_of(name)}
        else origin
        for name, origin in report.origins.items()
    }
    return replace(report, origins=origins) if known else report


def recorded(report: JoinReport) -> Mapping[str, str]:
    """Fresh parameters that a file had on record: name -> part."""
    return {name: part_of(name) for name in report.names(Untrained)}
