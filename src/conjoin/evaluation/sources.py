"""Sources to generate from, line by line: text or JSON, from files of any size and from pipes."""

import gzip
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from conjoin.errors import DataError, listing, lone_surrogate

Kind = Literal["text", "jsonl"]
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
STDIN = "-"
MANY = 20
"""Problems after which checking stops."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """Where sources come from.

    Args:
        name: A path; "-" for stdin.
        kind: One text a line, or one JSON object a line (blank ones are passed over).
        column: The object's key that holds the text.
    """

    name: str
    kind: Kind
    column: str = "source"

    @classmethod
    def of(cls, name: str, kind: Kind | None, column: str) -> "SourceFile":
        """Tell the kind by the name where it is not given.

        Raises:
            DataError: no such file, or a kind that is not read here.
        """
        path = Path(name)
        suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
        if name != STDIN and not path.exists():
            raise DataError(f"{name}: no such file.")
        if name != STDIN and path.is_dir():
            raise DataError(f"{name} is a folder; expected a file with one source a line.")
        if kind is None and suffix in TABLE_SUFFIXES:
            raise DataError(
                f"{name}: sources are read from text or JSON lines, not from {suffix}.",
                hint="--input-format text takes every line of it as a source.",
            )
        return cls(name, kind or ("jsonl" if suffix in JSON_SUFFIXES else "text"), column)

    @property
    def can_be_read_twice(self) -> bool:
        """Whether it is a file, not a pipe."""
        return self.name != STDIN and Path(self.name).is_file()

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every source, with the object that it stands in.

        Raises:
            DataError: a damaged line, with its number.
        """
        for number, found in self._parsed():
            if isinstance(found, str):
                raise DataError(f"{self._shown}, line {number}: {found}")
            yield found

    def check(self) -> int:
        """Read it once, before anything is generated.

        Returns:
            The number of sources.

        Raises:
            DataError: damaged lines, up to 20 of them in one error.
        """
        count, problems = 0, list[str]()
        for number, found in self._parsed():
            count += 1
            if isinstance(found, str):
                problems.append(f"line {number}: {found}")
                if len(problems) == MANY:
                    break
        if problems:
            raise DataError(f"{self._shown} cannot be used:\n{listing(problems)}")
        return count

    @property
    def _shown(self) -> str:
        return "stdin" if self.name == STDIN else self.name

    def _parsed(self) -> Iterator[tuple[int, tuple[str, dict[str, Any]] | str]]:
        with self._open() as file:
            try:
                for number, line in enumerate(file, 1):
                    if self.kind == "text" or line.strip():
                        yield number, self._parse(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            except (OSError, EOFError) as error:
                raise DataError(f"{self._shown}: cannot be read: {error}.") from None

    def _open(self) -> IO[bytes]:
        if self.name == STDIN:
            return open(sys.stdin.fileno(), "rb", closefd=False)
        try:
            return cast(IO[bytes], gzip.open(self.name)) if self.name.endswith(".gz") else open(self.name, "rb")
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read: {error.strerror}.") from None

    def _parse(self, raw: bytes) -> tuple[str, dict[str, Any]] | str:
        """The source of a line, or what is wrong with it."""
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"not UTF-8 at byte {error.start + 1} ({error.reason})."
        if self.kind == "text":
            text = line.rstrip("\r\n")
            return text, {"source": text}
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            return f"not JSON at column {error.colno}: {error.msg}: {line.strip()[:60]}"
        except RecursionError:
            return "not JSON: nested too deeply."
        if "\\u" in line and (problem := lone_surrogate(json.dumps(row, ensure_ascii=False))):  # all of it is written
            return problem
        if isinstance(row, str):
            return row, {"source": row}
        if not isinstance(row, dict):
            return f"a {type(row).__name__}, expected an object with {self.column!r}."
        values = cast("dict[str, Any]", row)
        if not isinstance(values.get(self.column), str):
            found = ", ".join(map(repr, values)) or "nothing"
            return f"no text under {self.column!r}; the object has {found}. Name the key with --source-column."
        return values[self.column], values
