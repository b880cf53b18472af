"""Pairs of texts from files and data sets; errors name file and line."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import DataError, MissingBackend, listing, lone_surrogate, quoted, warn
from conjoin.limits import DATA_PROBLEMS
from conjoin.texts.columns import WEIGHT, ExtraColumns, checked_weights
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
    sources: Sequence[str]
    targets: Sequence[str]
    lines: Sequence[int] | NDArray[np.int64]
    weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.sources)


PART = 1000
"""Pairs that are read and tokenized together: enough for all threads of a tokenizer, few enough to show progress."""


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
    reader = PairReader(data, columns, name)
    pairs = Pairs(reader.name, [], [], [])
    texts = cast("tuple[list[str], list[str], list[int]]", (pairs.sources, pairs.targets, pairs.lines))
    weights: list[NDArray[np.float64]] = []
    for part in reader:
        for whole, own in zip(texts, (part.sources, part.targets, part.lines), strict=True):
            cast("list[Any]", whole).extend(own)
        weights += [] if part.weights is None else [part.weights]
    for note in reader.notes:
        warn(f"{reader.name}: {note}")
    return replace(pairs, weights=checked_weights(np.concatenate(weights) if weights else (), reader.name))


class PairReader:
    """Reads pairs part by part, so that a file of any size takes the memory of one part.

    Args:
        data: As `read_pairs` takes it.
        name: Name of rows in memory in messages.

    Attributes:
        name: Name of the data in messages: the file, if there is one.
        notes: What to tell about the data, once all are read.
    """

    def __init__(self, data: Any, columns: Columns, name: str = "the training data") -> None:
        self._data, self._columns = data, columns
        self._is_file = isinstance(data, str | Path)
        self.name = str(Path(data)) if self._is_file else name
        self.notes: list[str] = []

    def check_start(self) -> None:
        """Read the first part.

        Raises:
            DataError: see `read_pairs`.
        """
        next(iter(self), None)

    def __iter__(self) -> Iterator[Pairs]:
        """Yield the pairs, `PART` at a time; weights are those of the rows, even if all are 1.

        Raises:
            DataError: see `read_pairs`; up to `DATA_PROBLEMS` problems go into one error.
        """
        wanted = (self._columns.source, self._columns.target)
        rows = rows_of_file(Path(self._data), wanted) if self._is_file else enumerate(_rows(self._data, wanted), 1)
        part = _Part(self._columns)
        seen = False
        for line, row in rows:
            part.add(line, row)
            if len(part.problems) >= DATA_PROBLEMS:
                break
            if len(part.sources) == PART:
                self._require_usable(part)
                yield part.take(self.name)
                seen = True
        self._require_usable(part)
        if part.sources:
            yield part.take(self.name)
        elif not seen:
            what = "has no pair whose source and target are both not empty" if part.rows else "is empty"
            raise DataError(f"{self.name} {what}; expected at least one pair.")
        self.notes = part.extra_columns.notes()

    def _require_usable(self, part: "_Part") -> None:
        if not part.problems:
            return
        empty = any(problem.endswith("is empty.") for _, problem in part.problems)
        hint = "--drop-empty (drop_empty=True) leaves out pairs with an empty side." if empty else None
        problems = listing(problems_of(part.problems, "line" if self._is_file else "row"))
        raise DataError(f"{self.name} cannot be used:\n{problems}", hint=hint)


class _Part:
    """The pairs read since the last part, and what was wrong with rows."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.extra_columns = ExtraColumns((columns.source, columns.target))
        self.problems: list[tuple[int, str]] = []
        self.rows = 0
        self._start()

    def _start(self) -> None:
        self.sources: list[str] = []
        self.targets: list[str] = []
        self._lines: list[int] = []
        self._weights: list[float] = []

    def take(self, name: str) -> Pairs:
        """Return the pairs, and start anew."""
        weights = np.array(self._weights) if self._weights else None
        pairs = Pairs(name, self.sources, self.targets, self._lines, weights)
        self._start()
        return pairs

    def add(self, line: int, row: Any) -> None:
        """Add a row, or record what is wrong with it."""
        self.rows += 1
        texts = row if isinstance(row, Bad) else _texts(row, self._columns)
        weight = self.extra_columns.weight(row) if isinstance(texts, tuple) and not isinstance(row, Bad) else None
        if isinstance(texts, str):
            self.problems.append((line, texts))
        elif isinstance(weight, str):
            self.problems.append((line, weight))
        elif not (texts[0].strip() and texts[1].strip()):
            if not self._columns.drop_empty:
                empty = self._columns.target if texts[0].strip() else self._columns.source
                self.problems.append((line, f"{empty} is empty."))
        else:
            self.sources.append(self._columns.prefix + texts[0])
            self.targets.append(texts[1])
            self._lines.append(line)
            if weight is not None:
                self._weights.append(weight)


def _rows(data: Any, wanted: Sequence[str]) -> Iterable[Any]:
    """Return rows in memory; of a `datasets.Dataset`, only the columns that are read, as the others may be images."""
    if not is_dataset(data):
        return cast("Iterable[Any]", data)
    names = cast("list[str]", data.column_names)
    read = {name if name in names else name.partition(".")[0] for name in wanted} | {WEIGHT}
    unread = {name: None for name in names if name not in read}
    return rows_of_dataset(data.select_columns([name for name in names if name in read]), unread)


def is_dataset(data: Any) -> bool:
    """True for a `datasets.Dataset` whose rows are those of its Arrow table; formats and transforms make others."""
    known = all(hasattr(data, name) for name in ("column_names", "select_columns", "iter", "_fingerprint"))
    return known and data.format["type"] is None and data.format["columns"] == data.column_names


def rows_of_dataset(data: Any, rest: Mapping[str, None] = MappingProxyType({})) -> Iterator[dict[str, Any]]:
    """Yield the rows of a `datasets.Dataset`, which is many times faster by the batch.

    Args:
        rest: Added to every row.
    """
    for batch in data.iter(batch_size=PART):
        yield from ({**dict(zip(batch, row, strict=True)), **rest} for row in zip(*batch.values(), strict=True))


def _texts(row: Any, columns: Columns) -> tuple[str, str] | str:
    """Return source and target of a row, or its problem."""
    if not isinstance(row, Mapping):
        return f"is a {type(row).__name__}, expected an object with {columns.source} and {columns.target}."
    values: list[str] = []
    cells = cast("Mapping[str, Any]", row)
    for column, side in ((columns.source, "source"), (columns.target, "target")):
        value = inner(cells, column)
        if value is MISSING:
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


MISSING = object()
"""What `inner` returns if there is no such column."""


def inner(row: Mapping[str, Any], column: str) -> Any:
    """Return a cell of a row; dots in the name of the column reach into nested ones."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return MISSING
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
