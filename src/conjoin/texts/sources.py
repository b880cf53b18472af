"""Sources to generate from: text, JSON lines or tables, from files of any size and from pipes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from conjoin.errors import DataError, listing, lone_surrogate, quoted
from conjoin.limits import DATA_PROBLEMS
from conjoin.texts.lines import STDIN, Bad, as_json, decoded, parsed, problems_of, raw_lines
from conjoin.texts.pairs import kind_of, rows_of_file

Kind = Literal["text", "jsonl", "table"]
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of sources.

    Args:
        name: A path; "-" for stdin.
        kind: One text per line, one JSON object per line (blank lines are skipped), or a table with a header.
        column: The key of an object, or the column of a table, that holds the text.
    """

    name: str
    kind: Kind
    column: str = "source"

    @classmethod
    def of(cls, name: str, kind: Kind | None, column: str) -> "SourceFile":
        """Return the source file of a name; without a kind, the suffix decides.

        Raises:
            DataError: the file does not exist, or is a folder.
        """
        path = Path(name)
        suffix = f".{kind_of(path)}"
        if name != STDIN and not path.exists():
            raise DataError(f"{name}: no such file.")
        if name != STDIN and path.is_dir():
            raise DataError(f"{name} is a folder; expected a file with one source a line.")
        if kind is None:
            kind = "table" if suffix in TABLE_SUFFIXES else "jsonl" if suffix in JSON_SUFFIXES else "text"
        return cls(name, kind, column)

    @property
    def can_be_read_twice(self) -> bool:
        """True for a file, False for a pipe."""
        return self.name != STDIN and Path(self.name).is_file()

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield every source text with the whole row that holds it.

        Raises:
            DataError: a line is damaged; the error has its number.
        """
        for number, parsed_row in self._parsed():
            if isinstance(parsed_row, Bad):
                raise DataError(f"{self._shown}, line {number}: {parsed_row}")
            yield parsed_row

    def check(self) -> int:
        """Read the file once, before anything is generated.

        Returns:
            The number of sources.

        Raises:
            DataError: lines are damaged; one error lists up to 20 of them.
        """
        count, problems = 0, list[tuple[int, str]]()
        for number, parsed_row in self._parsed():
            count += 1
            if isinstance(parsed_row, Bad):
                problems.append((number, parsed_row))
                if len(problems) == DATA_PROBLEMS:
                    break
        if problems:
            raise DataError(f"{self._shown} cannot be used:\n{listing(problems_of(problems))}")
        return count

    @property
    def _shown(self) -> str:
        return "stdin" if self.name == STDIN else self.name

    def _parsed(self) -> Iterator[tuple[int, tuple[str, Row] | Bad]]:
        if self.kind == "table":
            for number, row in rows_of_file(Path(self.name), (self.column,), whole=True):
                yield number, row if isinstance(row, Bad) else self._source(as_json(row))
            return
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
            return Bad(f"no text under {self.column!r}; the object has {keys}. Name the key with --source-column.")
        return values[self.column], values
