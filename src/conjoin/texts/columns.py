"""Columns other than the texts: weights of rows, and columns that are ignored."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import DataError, near, quoted, shown

WEIGHT = "weight"
"""The column that says how many times a row's labels count in the loss."""
LIKENESS = 0.85
"""Similarity above which a column name counts as a misspelling of another, as label of labels."""


class ExtraColumns:
    """Reads the weights of rows of text, and checks their columns that hold no text.

    Args:
        columns: Names of the columns that hold the texts.
    """

    def __init__(self, columns: Iterable[str]) -> None:
        names = {*columns}
        self._read = names | {column.partition(".")[0] for column in names}
        self._has_weights: bool | None = None
        self._checked: set[tuple[Any, ...]] = set()
        self._unread: dict[Any, None] = {}

    def weight(self, row: Mapping[Any, Any]) -> float | str | None:
        """Return a row's weight (None if it has none), or a message that says what is wrong with its columns."""
        if (names := tuple(row)) not in self._checked:
            if problem := self._misspelling(names):
                return problem
            self._checked.add(names)
            self._unread |= {name: None for name in names if name not in self._read and name != WEIGHT}
        weight = None if WEIGHT in self._read else weight_of(row.get(WEIGHT), text=True)
        if isinstance(weight, str):
            return weight
        self._has_weights = (weight is not None) if self._has_weights is None else self._has_weights
        if self._has_weights != (weight is not None):
            verb = "has no" if self._has_weights else "has a"
            return f"{verb} {WEIGHT}, unlike the rows before. Expected in every row or in none."
        return weight

    def _misspelling(self, names: Sequence[Any]) -> str | None:
        if WEIGHT in names or WEIGHT in self._read:
            return None
        unread = [name for name in names if isinstance(name, str) and name not in self._read]
        misspelt = next((name for name in unread if near(name, (WEIGHT,), cutoff=LIKENESS)), None)
        return None if misspelt is None else f"has {misspelt!r}, which nothing reads. Did you mean {WEIGHT!r}?"

    def notes(self) -> list[str]:
        """Return a warning about the columns that nothing reads, if there are some, without the name of the data."""
        if not self._unread:
            return []
        read = quoted(sorted(self._read))
        return [f"nothing reads the columns {quoted(self._unread)}. Read are {read}, and {WEIGHT}."]


def weight_of(value: Any, *, text: bool = False) -> float | str | None:
    """Return a row's weight (None if it has none), or a message that says what is wrong with it.

    Args:
        text: True if the weight may be a string, as in tables.
    """
    if value is None:
        return None
    try:
        weight = float(value)
    except (TypeError, ValueError, OverflowError):
        weight = -1.0
    if (isinstance(value, str) and not text) or isinstance(value, bool) or not 0 <= weight < math.inf:
        return f"{WEIGHT} is {shown(value)}; expected a number of 0 or more."
    return weight


def checked_weights(weights: Sequence[float] | NDArray[np.float64], name: str) -> NDArray[np.float64] | None:
    """Return the weights of all rows; None if all are 1.

    Raises:
        DataError: all weights are 0.
    """
    array = np.asarray(weights, np.float64)
    if len(array) and not array.any():
        raise DataError(f"{name}: every {WEIGHT} is 0; nothing would be learnt.")
    return array if (array != 1).any() else None
