"""Sources to generate from: text, JSON lines or tables, from files of any size and from pipes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from conjoin.errors import DataError, listing, lone_surrogate, quoted
from conjoin.limits import DATA_PROBLEMS
from conjoin.texts.lines import STDIN, Bad, as_json, decoded, parsed, problems_of, raw_lines
from conjoin.texts.tables import Kind, kind_of, parquet_rows, parquet_schema, table_rows

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of sources.

    Args:
        name: A path; "-" for stdin.
        kind: One text per line, one JSON object per line (blank lines are skipped), or a table with a header.
        column: The key of an object, or the column of a table, that holds the text.
        option: The option of the command line that names the column, for errors.
    """

    name: str
    kind: Kind
    column: str = "source"
    option: str = "--source-column"

    @classmethod
    def of(cls, name: str, kind: Kind | None, column: str, option: str = "--source-column") -> "SourceFile":
        """Return the source file of a name; without a kind, the suffix decides.

        Raises:
            DataError: the file does not exist, or is a folder.
        """
        path = Path(name)
        if name != STDIN and not path.exists():
            raise DataError(f"{name}: no such file.")
        if name != STDIN and path.is_dir():
            raise DataError(f"{name} is a folder; expected a file with one source a line.")
        return cls(name, kind or (kind_of(name) if name != STDIN else None) or "text", column, option)

    @property
    def can_be_read_twice(self) -> bool:
        """True for a file, False for a pipe."""
        return self.name != STDIN and Path(self.name).is_file()

    @property
    def schema(self) -> Any:
        """The Arrow schema of a Parquet file; None of other files and of pipes."""
        return parquet_schema(self.name) if self.kind == "parquet" and self.can_be_read_twice else None

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield every source text with the whole row that holds it.

        Raises:
            DataError: a line is damaged; the error has its number.
        """
        for number, parsed_row in self.entries():
            if isinstance(parsed_row, Bad):
                raise DataError(f"{self.shown}, line {number}: {parsed_row}")
            yield parsed_row

    def check(self, *, keep_errors: bool = False) -> int:
        """Read the file once, before anything is generated.

        Args:
            keep_errors: Damaged lines are no error; they are counted too.

        Returns:
            The number of sources.

        Raises:
            DataError: lines are damaged; one error lists up to 20 of them.
        """
        count, problems = 0, list[tuple[int, str]]()
        for number, parsed_row in self.entries():
            count += 1
            if isinstance(parsed_row, Bad) and not keep_errors:
                problems.append((number, parsed_row))
                if len(problems) == DATA_PROBLEMS:
                    break
        if problems:
            raise DataError(f"{self.shown} cannot be used:\n{listing(problems_of(problems))}")
        return count

    @property
    def shown(self) -> str:
        """The file's name in messages."""
        return "stdin" if self.name == STDIN else self.name

    def entries(self) -> Iterator[tuple[int, tuple[str, Row] | Bad]]:
        """Yield the line of every source, and its text and row, or what is wrong with them.

        Raises:
            DataError: what follows cannot be read.
        """
        match self.kind:
            case "parquet":
                for number, row in enumerate(parquet_rows(self.name, (self.column,), whole=True), 1):
                    yield number, self._source(as_json(row))
            case "csv" | "tsv":
                for number, row in table_rows(self.name, self.kind, (self.column,), whole=True):
                    yield number, row if isinstance(row, Bad) else self._source(row)
            case "text" | "jsonl":
                for number, line in enumerate(raw_lines(self.name), 1):
                    if self.kind == "text" or line.strip():
                        yield number, self._parse(line)

    def _parse(self, raw: bytes) -> tuple[str, Row] | Bad:
        """Return the source text and the row of a line, or what is wrong with it."""
        if self.kind == "text":
            text = decoded(raw)
            return text if isinstance(text, Bad) else (text.rstrip("\r\n"), {"source": text.rstrip("\r\n")})
        row = parsed(raw)
        if isinstance(row, Bad):
            return row
        # the whole object is checked, since results repeat it
        problem = b"\\u" in raw and lone_surrogate(json.dumps(row, ensure_ascii=False))
        return Bad(problem) if problem else self._source(row)

    def _source(self, row: Any) -> tuple[str, Row] | Bad:
        if isinstance(row, str):
            return row, {"source": row}
        if not isinstance(row, dict):
            return Bad(f"a {type(row).__name__}, expected an object with {self.column!r}.")
        values = cast("Row", row)
        if not isinstance(values.get(self.column), str):
            keys = quoted(values) or "nothing"
            problem = Bad(f"no text under {self.column!r}; the object has {keys}. Name the key with {self.option}.")
            return problem.of(values)
        return values[self.column], values
