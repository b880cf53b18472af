"""Pairs of texts from files and data sets; errors name file and line."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import DataError, MissingBackend, listing, lone_surrogate, quoted
from conjoin.limits import DATA_PROBLEMS
from conjoin.texts.columns import WEIGHT, ExtraColumns, checked_weights
from conjoin.texts.lines import Bad, decoded, parsed, problems_of, raw_lines


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


def kind_of(path: Path) -> str:
    """Return the kind of a file by its name."""
    return "".join(path.suffixes).removesuffix(".gz").rpartition(".")[2].lower()


def rows_of_file(path: Path, wanted: Sequence[str], *, whole: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a file with their lines; a row that cannot be read is `Bad`.

    Args:
        wanted: Columns that must be there.
        whole: Read the other columns too, if a file stores columns separately.

    Raises:
        DataError: no such file, a folder, an unknown kind of file, missing columns, damage; with the line.
    """
    if path.is_dir():
        hint = "name the file in it, or give conjoin train a folder that `datasets` reads with --dataset."
        raise DataError(f"{path} is a folder; expected a file of pairs.", hint=hint)
    if not path.is_file():
        raise DataError(f"{path}: no such file.", hint="conjoin train reads data sets of the hub with --dataset NAME.")
    match kind_of(path):
        case "jsonl" | "json" | "ndjson":
            yield from _from_lines(path)
        case "csv":
            yield from _from_table(path, ",", wanted)
        case "tsv":
            yield from _from_table(path, "\t", wanted)
        case "parquet":
            yield from enumerate(_from_parquet(path, wanted, whole=whole), 1)
        case _:
            raise DataError(f"{path}: unknown kind of file.\nExpected one of: .jsonl, .json, .csv, .tsv, .parquet.")


def _from_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of JSON lines; blank lines are skipped."""
    for number, line in enumerate(raw_lines(path), 1):
        if not line.strip():
            continue
        if number == 1 and line.strip() == b"[":
            hint = "conjoin reads one object a line; jq -c '.[]' FILE makes such a file."
            raise DataError(f"{path}: begins as one JSON list over many lines.", hint=hint)
        row = parsed(line)
        yield number, Bad(f"is {row}") if isinstance(row, Bad) else row


def _from_table(path: Path, delimiter: str, wanted: Sequence[str]) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)
    table = csv.DictReader(_text_lines(path), delimiter=delimiter)
    try:
        header = list(table.fieldnames or [])
        _require_columns(path, header, wanted)
        for row in table:
            short = None in row or None in row.values()
            yield table.line_num, Bad(f"has not {len(header)} fields, as the header has.") if short else row
    except csv.Error as error:
        raise DataError(f"{path}, line {table.line_num}: not CSV: {error}.") from None


def _text_lines(path: Path) -> Iterator[str]:
    """Yield lines of text; a carriage return alone ends a line too, as in old tables."""
    for number, line in enumerate(raw_lines(path), 1):
        text = decoded(line)
        if isinstance(text, Bad):
            raise DataError(f"{path}, line {number}: {text}")
        yield from io.StringIO(text, newline="") if "\r" in text else (text,)


def _require_columns(path: Path, header: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in header and name.split(".")[0] not in header]
    if missing and header:
        flags = "--source-column and --target-column" if len(wanted) > 1 else "--source-column"
        raise DataError(
            f"{path}: there is no column {quoted(missing)}; there are {quoted(header)}.",
            hint=f"name them with {flags}." if len(wanted) > 1 else f"name it with {flags}.",
        )


def _from_parquet(path: Path, wanted: Sequence[str], *, whole: bool) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingBackend("Parquet files need pyarrow: pip install 'conjoin[train]'") from None
    row = 0
    ArrowException: type[Exception] = cast(Any, pyarrow).ArrowException
    try:
        with cast(Any, parquet).ParquetFile(path) as file:
            names = [str(name) for name in file.schema_arrow.names]
            _require_columns(path, names, wanted)
            read = [name if name in names else name.split(".")[0] for name in wanted] + [WEIGHT]
            unread = {} if whole else {name: None for name in names if name not in read}
            for batch in file.iter_batches(columns=[name for name in names if name not in unread]):
                yield from ({**row, **unread} for row in batch.to_pylist())
                row += batch.num_rows
    except UnicodeDecodeError as error:
        what = f"not UTF-8 in a row after row {row}" if row else "not UTF-8, in a name of a column or in its first rows"
        raise DataError(f"{path}: {what} ({error.reason}).") from None
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {str(error).rstrip('.')}.") from None


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
