"""The results file in any format, and results on stdout."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjoin.bulk.rows import CUT, ERROR, RESULT_COLUMNS
from conjoin.errors import ConfigError
from conjoin.texts.parquet import require_pyarrow, schema_of, write_parquet
from conjoin.texts.tables import Kind, kind_of
from conjoin.texts.writing import columns_of, json_line, results_file, table_lines

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file of results.

    Args:
        path: Where it is.
        kind: Its format.
    """

    path: Path
    kind: Kind

    @classmethod
    def of(cls, path: Path, kind: Kind | None) -> "OutputFile":
        """Return the file of a path; without a kind, its name decides, and a name that says nothing is text.

        Raises:
            MissingBackend: it is Parquet, and pyarrow is not installed.
        """
        kind = kind or kind_of(path) or "text"
        if kind == "parquet":
            require_pyarrow()
        return cls(path, kind)

    def write(self, rows: Callable[[], Iterable[Row]], *, always: Sequence[str] = (), schema: Any = None) -> None:
        """Write all rows; the file is replaced whole or not at all.

        Args:
            always: Columns of a table that are there even if no row has them.
            schema: Arrow schema of the input, whose types the columns of a Parquet file keep.

        Raises:
            FileError: it cannot be written.
        """
        if self.kind == "parquet":
            columns = _columns(rows(), [*([] if schema is None else schema.names), *always])
            whole = schema_of(rows(), columns, schema, _types())
            with results_file(self.path) as file:
                write_parquet(file, _with_flags(rows()), whole)
            return
        with results_file(self.path) as file:
            file.writelines(line.encode() for line in self._lines(rows, always))

    def _lines(self, rows: Callable[[], Iterable[Row]], always: Sequence[str]) -> Iterator[str]:
        match self.kind:
            case "csv" | "tsv":
                yield from table_lines(_with_flags(rows()), _columns(rows(), always), self.kind)
            case "jsonl":
                yield from (f"{json_line(row)}\n" for row in rows())
            case _:
                yield from (f"{text_line(row)}\n" for row in rows())


def always_columns(*, several: bool, scores: bool, keep_errors: bool) -> list[str]:
    """Return the columns that tables of a run have, whatever its results are."""
    names = ("predictions", "scores") if several else ("prediction", "score")
    return [names[0], *([names[1]] if scores else []), CUT, *([ERROR] if keep_errors else [])]


def _columns(rows: Iterable[Row], always: Sequence[str]) -> list[str]:
    """Return the columns of a table: those of the input, then those of results."""
    names = list(dict.fromkeys([*always, *columns_of(rows)]))
    given = [name for name in names if name not in RESULT_COLUMNS]
    return [*given, *(name for name in RESULT_COLUMNS if name in names)]


def _with_flags(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows that say whether their source was cut, as columns of a table must, also where it was not."""
    for row in rows:
        yield {**row, CUT: row.get(CUT, False)} if "prediction" in row or "predictions" in row else row


def _types() -> dict[str, Any]:
    arrow = require_pyarrow()
    text, number = arrow.string(), arrow.float64()
    return {
        "prediction": text,
        "predictions": arrow.list_(text),
        "score": number,
        "scores": arrow.list_(number),
        CUT: arrow.bool_(),
        ERROR: text,
    }


def text_line(row: Row) -> str:
    """Return the result, or several separated by tabs; line breaks and tabs inside a result become spaces.

    The line of a source that failed is empty.
    """
    texts: Sequence[str] = row.get("predictions") or [row.get("prediction", "")]
    return "\t".join(" ".join(text.split()) if any(char in text for char in "\n\r\t") else text for text in texts)


class Lines:
    """Lines of results for stdout, one after another.

    Args:
        kind: Text, JSON lines or a table, whose columns are those of its first row.

    Raises:
        ConfigError: of Parquet, as it is no stream.
    """

    def __init__(self, kind: Kind, always: Sequence[str] = ()) -> None:
        if kind == "parquet":
            raise ConfigError("Parquet cannot be printed.", hint="name a file with --output.")
        self._kind: Kind = kind
        self._always = always
        self._columns: list[str] | None = None

    def of(self, row: Row) -> str:
        """Return what to print for a row; the header of a table comes with its first row.

        Raises:
            ConfigError: the row has columns that the first row of a table had not.
        """
        if self._kind == "text":
            return f"{text_line(row)}\n"
        if self._kind == "jsonl":
            return f"{json_line(row)}\n"
        header = self._columns is None
        columns = self._columns = self._columns or _columns([row], self._always)
        if unknown := [name for name in row if name not in columns]:
            raise ConfigError(
                f"A row has the columns {unknown}, which the first row has not, and the header is printed already.",
                hint="name a file with --output, or print JSON lines with --json.",
            )
        lines = table_lines(_with_flags([row]), columns, self._kind)
        return "".join(line for number, line in enumerate(lines) if header or number)
