"""Pairs of texts from files and data sets; errors name file and line."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import DataError, MissingBackend, listing, lone_surrogate, quoted
from conjoin.limits import DATA_PROBLEMS
from conjoin.texts.columns import ExtraColumns, checked_weights
from conjoin.texts.lines import Bad, problems_of
from conjoin.texts.tables import rows_of_file


class Pair(NamedTuple):
    """One pair, and its line in the file."""

    source: str
    target: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns hold the texts; dots go into nested ones, as in "translation.de".

    Args:
        drop_empty: Drop pairs whose source or target is empty.
    """

    source: str = "source"
    target: str = "target"
    prefix: str = ""
    drop_empty: bool = False


@dataclass(frozen=True, slots=True)
class Pairs:
    """Texts to train or evaluate on.

    Args:
        name: Their name in messages: the file, as a rule.
        lines: Line of each pair in it.
        weights: How many times each pair's labels count in the loss; None for once.
    """

    name: str
    sources: list[str]
    targets: list[str]
    lines: list[int]
    weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.sources)


def read_pairs(data: Any, columns: Columns, name: str = "the training data") -> Pairs:
    """Read pairs from a file (.jsonl, .json, .csv, .tsv, .parquet, each also .gz but the last), or from rows in memory.

    A column `weight` says how many times a pair's labels count in the loss; other columns are named once.

    Args:
        data: A path; or a `datasets.Dataset`, a list of mappings, or anything else that yields mappings.
        name: Name of rows in memory in messages.

    Raises:
        DataError: no such file, a folder, unknown kind of file, missing columns, bad lines, texts that are empty or
            that UTF-8 cannot hold, weights that are none, no pairs.
    """
    if isinstance(data, Pairs):
        return data
    if isinstance(data, str | Path):
        path = Path(data)
        return _collect(rows_of_file(path, (columns.source, columns.target)), columns, str(path), "line")
    rows = cast("Iterable[Any]", data)
    return _collect(enumerate(rows, 1), columns, name, "row")


def _collect(rows: Iterable[tuple[int, Any]], columns: Columns, name: str, unit: str) -> Pairs:
    """Check every row; up to `DATA_PROBLEMS` problems go into one error."""
    sources: list[str] = []
    targets: list[str] = []
    lines: list[int] = []
    extra_columns = ExtraColumns((columns.source, columns.target))
    weights: list[float] = []
    problems: list[tuple[int, str]] = []
    seen = 0
    for line, row in rows:
        seen += 1
        texts = row if isinstance(row, Bad) else _texts(row, columns)
        weight = extra_columns.weight(row) if isinstance(texts, tuple) and not isinstance(row, Bad) else None
        if isinstance(texts, str):
            problems.append((line, texts))
        elif isinstance(weight, str):
            problems.append((line, weight))
        elif not (texts[0].strip() and texts[1].strip()):
            if not columns.drop_empty:
                problems.append((line, f"{columns.target if texts[0].strip() else columns.source} is empty."))
        else:
            sources.append(columns.prefix + texts[0])
            targets.append(texts[1])
            lines.append(line)
            if weight is not None:
                weights.append(weight)
        if len(problems) >= DATA_PROBLEMS:
            break
    if problems:
        empty = any(problem.endswith("is empty.") for _, problem in problems)
        hint = "--drop-empty (drop_empty=True) leaves out pairs with an empty side." if empty else None
        raise DataError(f"{name} cannot be used:\n{listing(problems_of(problems, unit))}", hint=hint)
    if not sources:
        what = "is empty" if not seen else "has no pair whose source and target are both not empty"
        raise DataError(f"{name} {what}; expected at least one pair.")
    extra_columns.warn(name)
    return Pairs(name, sources, targets, lines, checked_weights(weights, name))


def _texts(row: Any, columns: Columns) -> tuple[str, str] | str:
    """Return source and target of a row, or its problem."""
    if not isinstance(row, Mapping):
        return f"is a {type(row).__name__}, expected an object with {columns.source} and {columns.target}."
    values: list[str] = []
    cells = cast("Mapping[str, Any]", row)
    for column, side in ((columns.source, "source"), (columns.target, "target")):
        value = _inner(cells, column)
        if value is _MISSING:
            return f"has no column {column!r}; it has {quoted(cells) or 'none'}. {_naming(side)}"
        if value is None:
            value = ""
        if not isinstance(value, str):
            return f"{column} is a {type(value).__name__}, expected text."
        if problem := lone_surrogate(value):
            return f"{column} {problem}"
        values.append(value)
    return values[0], values[1]


def _naming(side: str) -> str:
    return f"Name it with --{side}-column ({side}_column=)."


_MISSING = object()


def _inner(row: Mapping[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = cast("Mapping[str, Any]", value)[key]
    return value


def load_hub(name: str, config: str | None, split: str) -> Any:
    """Load one split of a data set of the hub, or of a folder that `datasets` reads.

    Raises:
        DataError: it cannot be found or read, or has no such split.
        MissingBackend: `datasets` is not installed.
    """
    try:
        import datasets as untyped
    except ImportError:
        raise MissingBackend("Data sets of the hub need datasets: pip install 'conjoin[train]'") from None
    datasets: Any = untyped
    try:
        if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "state.json").is_file():
            loaded = datasets.load_from_disk(name)
            return loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # it raises errors of many libraries: the hub's, pyarrow's, its own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"The data set {name!r}, split {split!r}, cannot be loaded: {reason}") from error
