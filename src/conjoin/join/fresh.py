"""Fresh parameters (in no checkpoint, and not trained yet): recorded in config.json until their values change."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from conjoin.configuration import EncoderDecoderConfig
from conjoin.families import PretrainedConfig
from conjoin.join.plan import Copied, JoinReport, Untrained, part_of

_NUM_REMEMBERED = 32
"""Values of each parameter that are remembered; an optimizer step changes nearly all of them."""

Numbers = Callable[[str], tuple[np.ndarray, str]]
"""Canonical name -> the first values of a parameter as float32, and its dtype."""


def first_numbers(array: Any) -> Any:
    """Return the first values of a parameter, which are remembered."""
    return array.reshape(-1)[:_NUM_REMEMBERED]


class FreshStart:
    """The fresh parameters of a joined model and their initial values.

    Args:
        names: Their canonical names; none for an entirely random model, which needs no record.
    """

    def __init__(self, names: Iterable[str], read: Numbers) -> None:
        self._start = {name: read(name) for name in names}

    def untouched(self, read: Numbers) -> list[str]:
        """Return the names in those parts of the model in which no fresh parameter has changed."""
        trained = {part_of(name) for name, start in self._start.items() if _has_changed(start, read(name))}
        return [name for name in self._start if part_of(name) not in trained]


def _has_changed(start: tuple[np.ndarray, str], now: tuple[np.ndarray, str]) -> bool:
    """True if the values changed by more than a cast to another dtype does."""
    (old, old_dtype), (new, new_dtype) = start, now
    if old.shape != new.shape:
        return True
    return not (np.array_equal(old, new) if old_dtype == new_dtype else np.allclose(old, new, rtol=2**-7, atol=1e-7))


def fresh_names(report: JoinReport) -> list[str]:
    """Return the fresh parameters to record; none if no part of the model was ever trained."""
    return report.fresh if report.copied else []


def record(report: JoinReport, names: Iterable[str]) -> list[str]:
    """Return the names as config.json holds them: the name of a part stands for all its parameters."""
    chosen = set(names)
    parts: dict[str, list[str]] = {}
    for name in report.origins:
        parts.setdefault(part_of(name), []).append(name)
    entries: list[str] = []
    for part, members in parts.items():
        entries += [part] if chosen.issuperset(members) else [name for name in members if name in chosen]
    return sorted(entries)


def with_record(report: JoinReport, config: PretrainedConfig) -> JoinReport:
    """Return the report of a loaded model, with the parameters in its config's record marked as fresh."""
    known = set(config.fresh) if isinstance(config, EncoderDecoderConfig) else set[str]()
    origins = {
        name: Untrained(origin.offer, origin.match)
        if isinstance(origin, Copied) and known & {name, part_of(name)}
        else origin
        for name, origin in report.origins.items()
    }
    return replace(report, origins=origins) if known else report


def recorded(report: JoinReport) -> Mapping[str, str]:
    """Return name -> part for the fresh parameters in a file's record."""
    return {name: part_of(name) for name in report.names(Untrained)}
