"""Rows that are already tokenized: every column is an argument of forward, or an error or warning names it."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import DataError, listing, quoted
from conjoin.limits import DATA_PROBLEMS
from conjoin.texts.columns import LIKENESS, WEIGHT, weight_of
from conjoin.texts.lines import problems_of
from conjoin.texts.pairs import PART
from conjoin.training.data.examples import IGNORED, Examples, Rows
from conjoin.training.data.store import FILLED, LABELS, SOURCE, in_memory, owner_of

BESIDE_SOURCE = ("attention_mask", "token_type_ids", "position_ids")
BESIDE_LABELS = ("decoder_input_ids", "decoder_attention_mask", "decoder_token_type_ids", "decoder_position_ids")
MASKS = ("attention_mask", "decoder_attention_mask")
TAKEN = (SOURCE, LABELS, *BESIDE_SOURCE, *BESIDE_LABELS, WEIGHT)
NOT_TAKEN = (
    *("inputs_embeds", "decoder_inputs_embeds", "encoder_outputs", "past_key_values", "segment_ids"),
    *("decoder_segment_ids", "head_mask", "decoder_head_mask", "cross_attn_head_mask"),
)
_LARGEST = 2**31 - 1

Column = NDArray[Any]
"""Integers of any dtype, as the row holds them."""


def from_ids(rows: Iterable[Any], name: str) -> Examples:
    """Make examples of tokenized rows, in memory; see `TokenizedRows`.

    Raises:
        DataError: rows cannot be used; one error lists up to 20 of them.
    """
    return in_memory(TokenizedRows(rows, name))


class TokenizedRows:
    """Examples made of tokenized rows (`store.Parts`): mappings with `input_ids`, `labels`, other arguments of forward.

    Labels of -100 and source padding are dropped at the end of a row, where that changes nothing, and kept elsewhere.
    A row's `weight` says how many times its labels count in the loss.
    """

    def __init__(self, rows: Iterable[Any], name: str) -> None:
        self._rows = rows
        self.name = name
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Examples]:
        """Yield examples, `PART` at a time.

        Raises:
            DataError: rows cannot be used; one error lists up to 20 of them.
        """
        table, number = _Table(self.name), 0
        for number, row in enumerate(self._rows, 1):
            table.add(number, row)
            if len(table.problems) >= DATA_PROBLEMS:
                break
            if number % PART == 0 and not table.problems:
                yield table.take(number - PART)
        table.require_usable()
        if (rest := table.count) > 0:
            yield table.take(number - rest)
        self.notes = table.notes()


class _Table:
    """The rows since the last part, by column, and what is known of all rows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[tuple[int, str]] = []
        self._columns: dict[str, list[Column]] = {}
        self._weights: list[float] = []
        self._first: frozenset[str] | None = None
        self._unknown: set[str] = set()
        self._columns_of: dict[tuple[str, ...], list[str]] = {}

    @property
    def count(self) -> int:
        """Number of rows since the last part."""
        return len(self._columns.get(SOURCE, ()))

    def add(self, number: int, row: Any) -> None:
        """Add a row, or record what is wrong with it."""
        try:
            columns = self._read(row)
        except _Unusable as error:
            self.problems.append((number, str(error)))
            return
        if self.problems:
            return
        for name, column in columns.items():
            self._columns.setdefault(name, []).append(column)

    def _read(self, row: Any) -> dict[str, Column]:
        if not hasattr(row, "keys"):
            raise _Unusable(f"is a {type(row).__name__}, expected a mapping with {SOURCE} and {LABELS}.")
        values = {name: row[name] for name in row.keys() if row[name] is not None}  # noqa: SIM118  (BatchEncoding)
        names = self._names(tuple(values))
        weight = weight_of(values.get(WEIGHT))
        if isinstance(weight, str):
            raise _Unusable(weight)
        columns = {name: _integers(name, values[name]) for name in names}
        _cut_end(columns, SOURCE, BESIDE_SOURCE)
        _cut_end(columns, LABELS, BESIDE_LABELS)
        if weight is not None:
            self._weights.append(weight)
        if len(columns) > 2 or len(self._columns) > 2:
            self._fill_up(columns)
        return columns

    def _fill_up(self, columns: dict[str, Column]) -> None:
        """Give default values to rows that lack a column which other rows have."""
        for name, value in FILLED.items():
            owner = owner_of(name)
            if name in self._columns and name not in columns:
                columns[name] = np.full(len(columns[owner]), value)
            elif name in columns and name not in self._columns:
                self._columns[name] = [np.full(len(x), value) for x in self._columns.get(owner, ())]

    def _names(self, names: tuple[Any, ...]) -> list[str]:
        """Return the columns to read of a row with these names; each set of names is checked once."""
        if names not in self._columns_of:
            self._check_names(names)
            self._columns_of[names] = [name for name in TAKEN if name in names and name != WEIGHT]
        return self._columns_of[names]

    def _check_names(self, names: tuple[Any, ...]) -> None:
        """Refuse a row that lacks a column, or has one with a misspelt name."""
        for name in names:
            if name in NOT_TAKEN:
                raise _Unusable(f"has {name}, which the trainer does not take. It takes {', '.join(TAKEN)}.")
            if name in TAKEN or not isinstance(name, str):
                continue
            similar = _closest_column(name)
            if similar is not None and similar not in names:
                raise _Unusable(f"has {name!r}, which nothing reads. Did you mean {similar!r}?")
            self._unknown.add(name)
        if missing := [name for name in (SOURCE, LABELS) if name not in names]:
            raise _Unusable(f"has no {' and no '.join(missing)}; it has {quoted(names) or 'nothing'}.")
        required = frozenset(name for name in names if name in TAKEN and name not in FILLED)
        self._first = required if self._first is None else self._first
        if unlike := sorted(required ^ self._first):
            verb = "has" if unlike[0] in required else "has no"
            raise _Unusable(f"{verb} {unlike[0]}, unlike the rows before. Expected in every row or in none.")

    def require_usable(self) -> None:
        """Raise what is wrong with rows.

        Raises:
            DataError: there are problems.
        """
        if self.problems:
            raise DataError(f"{self.name} cannot be used:\n{listing(problems_of(self.problems, 'row'))}")

    def take(self, before: int) -> Examples:
        """Return the rows since the last part as examples, and start anew.

        Args:
            before: Number of rows in earlier parts.

        Raises:
            DataError: a number does not fit its column.
        """
        columns = {name: _join_rows(name, rows, self.name, before) for name, rows in self._columns.items()}
        weights = np.array(self._weights) if self._weights else None
        self._columns, self._weights = {}, []
        sources, labels = columns.pop(SOURCE), columns.pop(LABELS)
        return Examples(sources, labels, self.name, columns=columns, weights=weights)

    def notes(self) -> list[str]:
        """Return a warning about the columns that nothing reads, if there are some."""
        if not self._unknown:
            return []
        return [f"nothing reads the columns {quoted(sorted(self._unknown))}. Read are {', '.join(TAKEN)}."]


class _Unusable(Exception):
    """Raised with what is wrong with a row."""


@lru_cache
def _closest_column(name: str) -> str | None:
    """Return the column that a misspelt name resembles, or None."""
    return next(iter(get_close_matches(name, TAKEN, 1, LIKENESS)), None)


def _integers(name: str, value: Any) -> Column:
    """Return a column as one array of integers."""
    value = value.detach().cpu() if hasattr(value, "detach") else value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = np.empty((0, 0), object)
    if array.ndim == 1 and not array.size:
        return np.empty(0, np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        kind = f"of shape {array.shape}" if array.dtype.kind in "iub" else f"of {_kind(value, array)}"
        raise _Unusable(f"{name} is {kind}, expected a list of whole numbers.")
    return array


def _kind(value: Any, array: NDArray[Any]) -> str:
    if array.dtype.kind == "f":
        return "numbers with a decimal point"
    return "lists of different lengths" if isinstance(value, list | tuple) and array.ndim != 1 else "other things"


def _join_rows(name: str, rows: list[Column], data: str, before: int) -> Rows:
    """Join all rows of a column, and check their numbers together: checking row by row takes longer than reading.

    Raises:
        DataError: a number does not fit the column; the error names the first such row.
    """
    least, most = (0, 1) if name in MASKS else (0, _LARGEST) if "position" in name else (-_LARGEST, _LARGEST)
    values = np.concatenate(rows)
    if values.dtype.kind != "b" and (int(values.max()) > most or int(values.min()) < least):
        at = next(at for at, row in enumerate(rows) if int(row.max()) > most or int(row.min()) < least)
        outlier = next(int(value) for value in rows[at] if not least <= int(value) <= most)
        expected = "1 at tokens and 0 at padding" if name in MASKS else f"numbers from {least} to {most}"
        raise DataError(f"{data}, row {before + at + 1}: {name} holds {outlier}; expected {expected}.")
    return Rows.joined(values, rows)


def _cut_end(columns: dict[str, Column], own: str, others: Iterable[str]) -> None:
    """Drop the padding at the end of a row from all columns of one side."""
    ids = columns[own]
    others = [name for name in others if name in columns]
    for name in others:
        if len(columns[name]) != len(ids):
            raise _Unusable(f"{name} has {len(columns[name])} entries, but {own} has {len(ids)}.")
    if not len(ids):
        raise _Unusable(f"{own} are empty.")
    mask = columns.get("attention_mask") if own == SOURCE else None
    if mask is None and own == SOURCE:
        return
    is_used = (ids != IGNORED) if mask is None else mask
    if is_used[-1]:
        return
    if not is_used.any():
        raise _Unusable(f"{own} are empty: {'no label counts' if own == LABELS else 'all is masked'}.")
    end = len(ids) - int(np.argmax(is_used[::-1] != 0))
    for name in (own, *others):
        columns[name] = columns[name][:end]
