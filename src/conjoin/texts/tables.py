"""Rows of files: JSON lines, CSV, TSV and Parquet, each also as .gz; errors name file and line."""

import csv
import io
import re
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from conjoin.errors import DataError, quoted
from conjoin.texts.columns import WEIGHT
from conjoin.texts.lines import STDIN, Bad, copy_contents, decoded, parsed, raw_lines
from conjoin.texts.parquet import require_pyarrow

Kind = Literal["text", "jsonl", "csv", "tsv", "parquet"]
"""Kinds of files of texts: lines, one JSON object a line, or a table with names of columns."""
KIND_OF_SUFFIX: dict[str, Kind] = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
}
DELIMITERS = {"csv": ",", "tsv": "\t"}
_LINE_END = re.compile(r"\r\n?|\n")
_QUOTES = (
    'put a cell with quotation marks between such marks, and write each of its own twice: """Yes"", he said"; or write '
    "JSON lines."
)


def kind_of(path: str | Path) -> Kind | None:
    """Return the kind of a file by its name, with or without .gz; None if the name does not say."""
    suffix = "".join(Path(path).suffixes).removesuffix(".gz").rpartition(".")[2].lower()
    return KIND_OF_SUFFIX.get(suffix)


def rows_of_file(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a file of pairs with their lines; a row that cannot be read is `Bad`.

    Of Parquet, columns that are not wanted are None, as they are not read.

    Args:
        wanted: Columns that must be there.

    Raises:
        DataError: no such file, a folder, an unknown kind of file, missing columns, damage; with the line.
    """
    if path.is_dir():
        hint = "name the file in it, or give conjoin train a folder that `datasets` reads with --dataset."
        raise DataError(f"{path} is a folder; expected a file of pairs.", hint=hint)
    if not path.is_file():
        raise DataError(f"{path}: no such file.", hint="conjoin train reads data sets of the hub with --dataset NAME.")
    match kind_of(path):
        case "jsonl":
            yield from _from_lines(path)
        case "parquet":
            yield from enumerate(parquet_rows(path, wanted, whole=False), 1)
        case "csv" | "tsv" as kind:
            yield from table_rows(path, kind, wanted)
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


def table_rows(
    path: str | Path, kind: Kind, wanted: Sequence[str], *, whole: bool = False
) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a CSV or TSV file, or of stdin, with their lines; a row that cannot be read is `Bad`.

    Args:
        whole: Every column will be used, so that none may be there twice.

    Raises:
        DataError: a column is missing, or the file is damaged; with the line.
    """
    csv.field_size_limit(2**31 - 1)
    table = csv.DictReader(_text_lines(path), delimiter=DELIMITERS[kind], strict=True)
    ended = 0
    try:
        header = list(table.fieldnames or [])
        ended = table.line_num
        _require_columns(path, header, wanted)
        if whole:
            _reject_twins(path, header)
        for row in table:
            began, ended = ended + 1, table.line_num
            if None in row or None in row.values():
                yield ended, Bad(f"has not {len(header)} fields, as the header has.")
            elif kind == "tsv" and began < ended and _runs_over(row):
                yield ended, Bad(f"begins in line {began}, with a quotation mark that is not closed there. {_QUOTES}")
            else:
                yield ended, row
    except csv.Error as error:
        began, end = ended + 1, table.reader.line_num
        lines = f"line {end}" if began >= end else f"lines {began} to {end}"
        raise DataError(f"{_named(path)}, {lines}: not {kind.upper()}: {error}.", hint=_QUOTES) from None


def _runs_over(row: Mapping[str, str]) -> bool:
    """True if all lines of a row have as many fields: several rows, of raw text with quotation marks of its own."""
    lines = _LINE_END.split("\t".join(row.values()))
    return len(row) > 1 and len(lines) > 1 and all(line.count("\t") == len(row) - 1 for line in lines)


def _text_lines(path: str | Path) -> Iterator[str]:
    """Yield lines of text; a carriage return alone ends a line too, as in old tables."""
    for number, line in enumerate(raw_lines(path), 1):
        text = decoded(line)
        if isinstance(text, Bad):
            raise DataError(f"{_named(path)}, line {number}: {text}")
        yield from io.StringIO(text, newline="") if "\r" in text else (text,)


def _named(path: str | Path) -> str:
    return "stdin" if path == STDIN else str(path)


def _require_columns(path: str | Path, header: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in header and name.split(".")[0] not in header]
    if missing and header:
        flags = "--source-column and --target-column" if len(wanted) > 1 else "--source-column"
        raise DataError(
            f"{_named(path)}: there is no column {quoted(missing)}; there are {quoted(header)}.",
            hint=f"name them with {flags}." if len(wanted) > 1 else f"name it with {flags}.",
        )


def _reject_twins(path: str | Path, header: Sequence[str]) -> None:
    twins = sorted({name for name in header if header.count(name) > 1})
    if twins:
        raise DataError(
            f"{_named(path)}: more than one column is named {quoted(twins)}, and all columns are kept.",
            hint="give each a name of its own.",
        )


def parquet_rows(path: str | Path, wanted: Sequence[str], *, whole: bool) -> Iterator[Any]:
    """Yield the rows of a Parquet file, or of stdin.

    Args:
        whole: Read all columns; else only those that are wanted, and the weight.

    Raises:
        DataError: a column is missing, or the file is damaged.
        MissingBackend: pyarrow is not installed.
    """
    pyarrow = require_pyarrow()
    row = 0
    ArrowException: type[Exception] = pyarrow.ArrowException
    try:
        with _seekable(path) as raw, pyarrow.parquet.ParquetFile(raw) as file:
            names = [str(name) for name in file.schema_arrow.names]
            _require_columns(path, names, wanted)
            if whole:
                _reject_twins(path, names)
            read = [name if name in names else name.split(".")[0] for name in wanted] + [WEIGHT]
            unread = {} if whole else {name: None for name in names if name not in read}
            for batch in file.iter_batches(columns=[name for name in names if name not in unread]):
                yield from ({**row, **unread} for row in batch.to_pylist())
                row += batch.num_rows
    except UnicodeDecodeError as error:
        what = f"not UTF-8 in a row after row {row}" if row else "not UTF-8, in a name of a column or in its first rows"
        raise DataError(f"{_named(path)}: {what} ({error.reason}).") from None
    except (ArrowException, OSError) as error:
        raise DataError(f"{_named(path)}: cannot be read as Parquet: {str(error).rstrip('.')}.") from None


def parquet_schema(path: str | Path) -> Any:
    """Return the Arrow schema of a Parquet file.

    Raises:
        DataError: it cannot be read as Parquet.
        MissingBackend: pyarrow is not installed.
    """
    pyarrow = require_pyarrow()
    try:
        with _seekable(path) as raw:
            return pyarrow.parquet.read_schema(raw)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{_named(path)}: cannot be read as Parquet: {str(error).rstrip('.')}.") from None


@contextmanager
def _seekable(path: str | Path) -> Generator[Any]:
    """Yield what Parquet can be read from, end first: the path, or an unpacked copy of a .gz file or of stdin."""
    if path != STDIN and Path(path).suffix != ".gz":
        yield path
        return
    with tempfile.TemporaryFile() as copy:
        copy_contents(path, copy)
        copy.seek(0)
        yield copy
