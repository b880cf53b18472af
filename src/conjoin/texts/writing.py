"""Rows written to files: lines of text, JSON lines, CSV and TSV, each also as .gz."""

import csv
import gzip
import io
import json
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from conjoin.checkpoint import replacing_bytes
from conjoin.texts.tables import DELIMITERS, Kind

Row = Mapping[str, Any]
_ENDS = "\r\n"


@contextmanager
def results_file(path: Path) -> Generator[IO[bytes]]:
    """Open a file that replaces another at the end, whole or not at all, and is on the disk then; packed if it is .gz.

    The bytes of a .gz file depend on its contents only.

    Raises:
        FileError: it cannot be written.
    """
    with replacing_bytes(path) as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as packed:
                yield cast("IO[bytes]", packed)
        else:
            yield raw
        sync(raw)


def sync(file: IO[bytes]) -> None:
    """Bring what was written to a file onto the disk."""
    file.flush()
    os.fsync(file.fileno())


def json_line(row: Row) -> str:
    """Return the whole object as one line of JSON."""
    return json.dumps(row, ensure_ascii=False)


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Return the names of all columns of rows, in the order in which they first appear."""
    return list({name: None for row in rows for name in row})


def table_lines(rows: Iterable[Row], columns: Sequence[str], kind: Kind) -> Iterator[str]:
    """Yield the header and the rows of a CSV or TSV table, as they are written, line ends included.

    A value that is missing or None is an empty cell; a list or an object is JSON.
    """
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer, delimiter=DELIMITERS[kind], lineterminator=_ENDS)  # a cell with either end is quoted

    def line(cells: Sequence[str]) -> str:
        table.writerow(cells)
        written = buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        return written.removesuffix(_ENDS) + "\n"

    yield line(columns)
    for row in rows:
        yield line([_cell(row.get(name)) for name in columns])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
